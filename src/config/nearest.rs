//! Names: which are allowed, and which was meant when one is unknown.

use super::Problem;

/// What a name may consist of.
pub const NAME_HINT: &str = "letters, digits and - _ . : [ ], at most 64 of them";

/// Whether `text` can be a name of a listener, pool or backend: no `/`, which separates pool and backend.
pub fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

/// Words in backticks, separated by commas.
pub fn listing(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Whether one name was probably meant as the other: few letters differ, and not most of them.
pub fn is_near(written: &str, name: &str) -> bool {
    let distance = strsim::damerau_levenshtein(name, written);
    distance <= name.len().max(3) / 3 && distance < name.len().min(written.len())
}

/// Adds "did you mean" when one name is nearest and near enough. Returns whether it did.
pub fn hint_nearest<'n>(problem: &mut Problem, written: &str, names: impl Iterator<Item = &'n str>) -> bool {
    let near = names.filter(|name| is_near(written, name));
    let mut scored: Vec<(usize, &str)> = near.map(|name| (strsim::damerau_levenshtein(name, written), name)).collect();
    scored.sort_unstable();
    match scored[..] {
        // Between two that are as near, guessing helps nobody.
        [(first, _), (second, _), ..] if first == second => false,
        [(_, name), ..] => {
            problem.hint(format!("did you mean `{name}`?"));
            true
        }
        [] => false,
    }
}

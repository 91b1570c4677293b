//! Reads one table of the file through its table of keys: unknown keys, wrong types and bad values become problems,
//! and reading goes on, so that one run reports them all.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Key, Kind, SectionKeys, Status};
use super::nearest::{NAME_HINT, hint_nearest, is_name, is_near, listing};
use super::problem::{Code, Problem, Problems};
use super::source::Place;

/// One table while it is read.
#[derive(Clone, Copy)]
pub struct Section<'a> {
    /// Its keys.
    pub keys: &'static SectionKeys,
    /// Heading with the real name of the pool, for messages.
    pub title: &'a str,
    /// Which file it stands in.
    pub file: usize,
    /// Where it stands.
    pub place: &'a Place,
    table: &'a DeTable<'a>,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands; the table's place for a default.
    pub place: Place,
}

impl<'a> Section<'a> {
    /// Starts reading: reports keys that do not exist or are not built.
    pub fn open(
        keys: &'static SectionKeys,
        title: &'a str,
        place: &'a Place,
        table: &'a DeTable<'a>,
        problems: &mut Problems,
    ) -> Self {
        let section = Self { keys, title, file: place.file, place, table };
        for written in table.keys() {
            let at = Place::new(place.file, &written.span());
            match keys.key(written.get_ref()) {
                None => {
                    let message = format!("unknown key `{}` in {title}", written.get_ref());
                    let names = keys.keys.iter().filter(|key| key.status == Status::Built).map(|key| key.name);
                    hint_nearest(problems.add(Code::UnknownKey, at, message), written.get_ref(), names);
                }
                Some(key) if key.status == Status::NotBuilt => {
                    let message = format!("`{}` in {title} is not built yet", key.name);
                    problems
                        .add(Code::NotBuilt, at, message)
                        .hint("this version refuses the key instead of ignoring it");
                }
                Some(_) => {}
            }
        }
        section
    }

    /// Whether the key is written.
    pub fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Place of the key itself.
    pub fn key_place(&self, name: &str) -> Place {
        let key = self.table.keys().find(|key| key.get_ref() == name);
        key.map_or_else(|| self.place.clone(), |key| Place::new(self.file, &key.span()))
    }

    /// Whether the key is written as a list without elements.
    pub fn is_empty_list(&self, name: &str) -> bool {
        self.raw(name).and_then(|raw| raw.get_ref().as_array()).is_some_and(|list| list.is_empty())
    }

    /// The raw value.
    fn raw(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(name)
    }

    /// A sub-table, written `[name]`.
    pub fn table(&self, name: &str, problems: &mut Problems) -> Option<At<&'a DeTable<'a>>> {
        let raw = self.raw(name)?;
        let place = self.place_of(raw);
        if let DeValue::Table(table) = raw.get_ref() {
            return Some(At { value: table, place });
        }
        self.wrong_type(name, "one table", raw.get_ref(), place, problems)
            .hint(format!("write it once, as [{}]", self.inside(name)));
        None
    }

    /// Sub-tables, written `[[name]]`.
    pub fn tables(&self, name: &str, problems: &mut Problems) -> Vec<At<&'a DeTable<'a>>> {
        let Some(raw) = self.raw(name) else { return Vec::new() };
        let hint = format!("write [[{}]]", self.inside(name));
        let DeValue::Array(list) = raw.get_ref() else {
            self.wrong_type(name, "a list of tables", raw.get_ref(), self.place_of(raw), problems).hint(hint);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for element in list {
            match element.get_ref() {
                DeValue::Table(table) => tables.push(At { value: table, place: self.place_of(element) }),
                other => {
                    self.wrong_type(name, "tables", other, self.place_of(element), problems).hint(hint.as_str());
                }
            }
        }
        tables
    }

    /// Heading of a sub-table.
    fn inside(&self, name: &str) -> String {
        match self.keys.heading {
            "file" if name == "pool" => "pool.NAME".to_owned(),
            "file" => name.to_owned(),
            "[[listener]]" => format!("listener.{name}"),
            _ => format!("{}.{name}", self.title.trim_matches(['[', ']'])),
        }
    }

    /// A value of any kind through `convert`, which reports what is wrong with it.
    pub(super) fn read<T>(
        &self,
        name: &str,
        problems: &mut Problems,
        convert: impl Fn(&Self, &Key, &Spanned<DeValue<'_>>, &mut Problems) -> Option<T>,
    ) -> Option<At<T>> {
        let key = self.keys.key(name)?;
        if let Some(raw) = self.raw(name) {
            let value = convert(self, key, raw, problems)?;
            return Some(At { value, place: self.place_of(raw) });
        }
        if key.default.is_empty() {
            return None;
        }
        let default = DeValue::parse(key.default).ok()?;
        let value = convert(self, key, &default, problems)?;
        Some(At { value, place: self.place.clone() })
    }

    /// A string.
    pub fn text(&self, name: &str, problems: &mut Problems) -> Option<At<String>> {
        self.read(name, problems, |section, key, raw, problems| {
            section.string(key.name, raw, problems).map(str::to_owned)
        })
    }

    /// A name of a listener or backend.
    pub fn name(&self, name: &str, problems: &mut Problems) -> Option<At<String>> {
        let found = self.text(name, problems)?;
        if !is_name(&found.value) {
            let message = format!("`{}` is not a name", found.value);
            problems.add(Code::BadName, found.place, message).hint(NAME_HINT);
            return None;
        }
        Some(found)
    }

    /// One of the key's words.
    pub fn word(&self, name: &str, problems: &mut Problems) -> Option<At<&'static str>> {
        self.read(name, problems, |section, key, raw, problems| {
            let text = section.string(key.name, raw, problems)?;
            let Kind::Word(words) = key.kind else { return None };
            let found = words.iter().copied().find(|word| *word == text);
            if found.is_none() {
                Self::unknown_word(key, text, words, section.place_of(raw), problems);
            }
            found
        })
    }

    /// Several of the key's words, those that are right.
    pub fn words(&self, name: &str, problems: &mut Problems) -> Option<At<Vec<&'static str>>> {
        let Kind::Words(words) = self.keys.key(name)?.kind else { return None };
        self.list(name, problems, |section, key, raw, problems| {
            let text = section.string(key, raw, problems)?;
            let found = words.iter().copied().find(|word| *word == text);
            if let (None, Some(key)) = (found, section.keys.key(key)) {
                Self::unknown_word(key, text, words, section.place_of(raw), problems);
            }
            found
        })
    }

    /// A whole number within the key's limits.
    pub fn integer(&self, name: &str, problems: &mut Problems) -> Option<At<i64>> {
        self.read(name, problems, Section::whole_number)
    }

    /// A whole number, or `None` for `"auto"`.
    pub fn auto_or_integer(&self, name: &str, problems: &mut Problems) -> Option<At<Option<i64>>> {
        self.read(name, problems, |section, key, raw, problems| {
            match raw.get_ref().as_str() {
                Some("auto") => return Some(None),
                Some(other) => {
                    let message = format!("`{other}` is not a value of `{}`", key.name);
                    problems.add(Code::UnknownWord, section.place_of(raw), message).hint("`auto`, or a whole number");
                    return None;
                }
                None => {}
            }
            section.whole_number(key, raw, problems).map(Some)
        })
    }

    /// `true` or `false`.
    pub fn flag(&self, name: &str, problems: &mut Problems) -> Option<At<bool>> {
        self.read(name, problems, |section, key, raw, problems| {
            let value = raw.get_ref().as_bool();
            if value.is_none() {
                section.wrong_type(key.name, "true or false", raw.get_ref(), section.place_of(raw), problems);
            }
            value
        })
    }

    /// Several strings.
    pub fn texts(&self, name: &str, problems: &mut Problems) -> Option<At<Vec<At<String>>>> {
        self.list(name, problems, |section, key, raw, problems| {
            let value = section.string(key, raw, problems)?.to_owned();
            Some(At { value, place: section.place_of(raw) })
        })
    }

    /// Whether an unknown key is written that was probably meant as this one; it is reported already.
    pub fn probably_has(&self, name: &str) -> bool {
        let mut unknown = self.table.keys().filter(|key| self.keys.key(key.get_ref()).is_none());
        unknown.any(|key| is_near(key.get_ref(), name))
    }

    /// Reports that a required key is missing, unless one is written that was probably meant.
    pub fn missing(&self, name: &str, hint: &str, problems: &mut Problems) {
        if self.probably_has(name) {
            return;
        }
        let message = format!("{} has no `{name}`", self.title);
        problems.add(Code::MissingKey, self.place.clone(), message).hint(hint);
    }

    pub(super) fn list<T>(
        &self,
        name: &str,
        problems: &mut Problems,
        convert: impl Fn(&Self, &str, &Spanned<DeValue<'_>>, &mut Problems) -> Option<T>,
    ) -> Option<At<Vec<T>>> {
        self.read(name, problems, |section, key, raw, problems| match raw.get_ref() {
            DeValue::Array(list) => {
                Some(list.iter().filter_map(|element| convert(section, key.name, element, problems)).collect())
            }
            other => {
                section.wrong_type(key.name, "a list", other, section.place_of(raw), problems);
                None
            }
        })
    }

    fn whole_number(&self, key: &Key, raw: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<i64> {
        let (Kind::Integer(low, high) | Kind::AutoOr(low, high)) = key.kind else { return None };
        let place = self.place_of(raw);
        let DeValue::Integer(number) = raw.get_ref() else {
            let want =
                if matches!(key.kind, Kind::AutoOr(..)) { "a whole number or \"auto\"" } else { "a whole number" };
            self.wrong_type(key.name, want, raw.get_ref(), place, problems);
            return None;
        };
        let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let inside = value.filter(|value| (low..=high).contains(value));
        if inside.is_none() {
            let message = format!("`{}` is {number}, outside {low} to {high}", key.name);
            problems.add(Code::OutOfRange, place, message);
        }
        inside
    }

    pub(super) fn string<'v>(
        &self,
        key: &str,
        raw: &'v Spanned<DeValue<'_>>,
        problems: &mut Problems,
    ) -> Option<&'v str> {
        let text = raw.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, "a string", raw.get_ref(), self.place_of(raw), problems);
        }
        text
    }

    fn unknown_word(key: &Key, text: &str, words: &[&'static str], place: Place, problems: &mut Problems) {
        let message = format!("`{text}` is not a value of `{}`", key.name);
        let problem = problems.add(Code::UnknownWord, place, message);
        if !hint_nearest(problem, text, words.iter().copied()) {
            problem.hint(format!("one of {}", listing(words)));
        }
    }

    pub(super) fn wrong_type<'p>(
        &self,
        key: &str,
        want: &str,
        got: &DeValue<'_>,
        place: Place,
        problems: &'p mut Problems,
    ) -> &'p mut Problem {
        let got = match got.type_str() {
            "array" => "a list",
            "table" => "a table",
            "integer" => "a whole number",
            "float" => "a number",
            "boolean" => "true or false",
            "datetime" => "a date",
            "string" => "a string",
            other => other,
        };
        problems.add(Code::WrongType, place, format!("`{key}` in {} takes {want}, not {got}", self.title))
    }

    pub(super) fn place_of(&self, raw: &Spanned<DeValue<'_>>) -> Place {
        Place::new(self.file, &raw.span())
    }
}

//! Problems of a configuration: all of them at once, each with place, excerpt, code and hint.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

use super::source::{Place, Sources};

/// Whether a problem stops the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, but probably not as meant.
    Warning,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// Stable codes of problems.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as printed.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

codes! {
    /// Not TOML.
    Syntax = "E001";
    /// A key that does not exist.
    UnknownKey = "E002";
    /// A value of another type.
    WrongType = "E003";
    /// A word that is not one of those allowed.
    UnknownWord = "E004";
    /// Not a duration.
    BadDuration = "E005";
    /// Not a size.
    BadSize = "E006";
    /// Not an address.
    BadAddress = "E007";
    /// Not a prefix.
    BadPrefix = "E008";
    /// A number or time outside its limits.
    OutOfRange = "E009";
    /// A key that must be there.
    MissingKey = "E010";
    /// A name that is defined twice.
    DuplicateName = "E011";
    /// A pool that does not exist.
    UnknownPool = "E012";
    /// Two listeners on one address.
    OverlappingBind = "E013";
    /// A pool without backends.
    EmptyPool = "E014";
    /// A part of the contract that this version does not have.
    NotBuilt = "E015";
    /// Not a server name pattern.
    BadServerName = "E016";
    /// Keys that contradict each other.
    Conflict = "E017";
    /// Not a name.
    BadName = "E018";
    /// A pool too large for its method.
    TooLarge = "E019";
    /// A file that cannot be read, or has not what it should.
    Unusable = "E020";
    /// A setting of a health check that cannot be.
    BadCheck = "E021";
    /// A route that can never match.
    UnreachableRoute = "W001";
    /// A pool without a health check.
    NoHealthCheck = "W002";
    /// A pool that nothing uses.
    UnusedPool = "W003";
    /// A key that has no effect.
    NoEffect = "W004";
}

impl Code {
    /// Errors begin with E, warnings with W.
    pub fn severity(self) -> Severity {
        if self.name().starts_with('E') { Severity::Error } else { Severity::Warning }
    }
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its code.
    pub code: Code,
    /// What is wrong, in lower case, with the value.
    pub message: String,
    /// Where.
    pub place: Place,
    /// Another place that belongs to it, with what it is.
    pub also: Option<(Place, String)>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// All problems found so far.
#[derive(Clone, Debug, Default)]
pub struct Problems(Vec<Problem>);

/// One problem as data.
#[derive(Serialize)]
struct ProblemView<'a> {
    severity: Severity,
    code: &'static str,
    file: &'a str,
    line: usize,
    column: usize,
    message: &'a str,
    hint: Option<&'a str>,
}

impl Problems {
    /// Adds a problem without a hint.
    pub fn add(&mut self, code: Code, place: Place, message: impl Into<String>) -> &mut Problem {
        self.0.push(Problem { code, message: message.into(), place, also: None, hint: None });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// Puts problems in the order of files and lines.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| (&a.place, a.code).cmp(&(&b.place, b.code)));
    }

    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// How many problems of a severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|problem| problem.code.severity() == severity).count()
    }

    /// Text for a person: one block per problem.
    pub fn render(&self, sources: &Sources, colour: Colour) -> String {
        let renderer = match colour {
            Colour::Plain => Renderer::plain(),
            Colour::Styled => Renderer::styled(),
        };
        let mut text = String::new();
        for problem in &self.0 {
            text.push_str(&problem.render(sources, &renderer));
            text.push_str("\n\n");
        }
        text
    }

    /// The problems as JSON.
    pub fn to_json(&self, sources: &Sources) -> serde_json::Value {
        let views = self.0.iter().map(|problem| {
            let (line, column) = sources.line_and_column(&problem.place);
            ProblemView {
                severity: problem.code.severity(),
                code: problem.code.name(),
                file: sources.name(problem.place.file),
                line,
                column,
                message: &problem.message,
                hint: problem.hint.as_deref(),
            }
        });
        serde_json::json!(views.collect::<Vec<_>>())
    }
}

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// No escape codes.
    Plain,
    /// ANSI escape codes.
    Styled,
}

impl Problem {
    /// Adds what to do about it.
    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a second place.
    pub fn also(&mut self, place: Place, label: impl Into<String>) -> &mut Self {
        self.also = Some((place, label.into()));
        self
    }

    fn render(&self, sources: &Sources, renderer: &Renderer) -> String {
        let level = match self.code.severity() {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let snippet = |place: &Place| {
            // A place at the very end of a file has nothing to underline.
            let text = sources.text(place.file);
            let end = place.end.clamp(place.start, text.len());
            (Snippet::source(text).path(sources.name(place.file)), place.start.min(text.len())..end)
        };
        let (first, span) = snippet(&self.place);
        let mut first = first.annotation(AnnotationKind::Primary.span(span));
        let mut second = None;
        if let Some((place, label)) = &self.also {
            let (other, span) = snippet(place);
            let mark = AnnotationKind::Context.span(span).label(label.as_str());
            if place.file == self.place.file {
                first = first.annotation(mark);
            } else {
                second = Some(other.annotation(mark));
            }
        }
        let mut group = level.primary_title(self.message.as_str()).id(self.code.name()).element(first);
        if let Some(second) = second {
            group = group.element(second);
        }
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        renderer.render(&[group])
    }
}

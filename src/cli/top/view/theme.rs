//! Colours and other emphasis; without colours, what they say is in the words and in bold, underlined or reversed.

use ratatui::style::{Color, Modifier, Style};

use crate::config::Colour;

/// What matters.
pub const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
/// The selected line, and a question.
pub const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// How things look.
#[derive(Clone, Copy, Debug)]
pub struct Theme(pub Colour);

impl Theme {
    fn coloured(self, colour: Color) -> Style {
        match self.0 {
            Colour::Styled => Style::new().fg(colour),
            Colour::Plain => Style::new(),
        }
    }

    /// Fine.
    pub fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    /// Worth a look.
    pub fn warn(self) -> Style {
        self.coloured(Color::Yellow)
    }

    /// Broken.
    pub fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// Names of things.
    pub fn label(self) -> Style {
        self.coloured(Color::Cyan)
    }

    /// The word for a state, of a backend or the process.
    pub fn state(self, state: &str) -> Style {
        match state {
            "up" | "running" => self.good(),
            "down" => self.bad(),
            "unchecked" => Style::new(),
            _ => self.warn(),
        }
    }

    /// Head of a pane: of the one that has the arrow keys, or of another.
    pub fn head(self, has_focus: bool) -> Style {
        match (self.0, has_focus) {
            (Colour::Styled, true) => Style::new().fg(Color::Black).bg(Color::Cyan),
            (Colour::Styled, false) => Style::new().fg(Color::Cyan).add_modifier(Modifier::UNDERLINED),
            (Colour::Plain, true) => Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            (Colour::Plain, false) => Style::new().add_modifier(Modifier::UNDERLINED),
        }
    }
}

//! Text with variables, as in paths and headers of scenarios: `/files/{id}`.

use std::fmt;

/// A variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variable {
    /// The current token; in a request that tests a wrong token, that one.
    Token,
    /// The file's id: from the response to its upload, or its name.
    Id,
    /// The file's secret, from the response to its upload.
    Secret,
    /// The generated file name, unique per upload.
    Name,
    /// The file's content type.
    ContentType,
}

impl Variable {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Token, "token"),
        (Self::Id, "id"),
        (Self::Secret, "secret"),
        (Self::Name, "name"),
        (Self::ContentType, "content_type"),
    ];
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(variable, _)| variable == self);
        write!(f, "{{{}}}", name.map_or("", |(_, name)| name))
    }
}

/// Values of the variables.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Values<'a> {
    pub(crate) token: &'a str,
    pub(crate) id: &'a str,
    pub(crate) secret: &'a str,
    pub(crate) name: &'a str,
    pub(crate) content_type: &'a str,
}

impl<'a> Values<'a> {
    fn get(&self, variable: Variable) -> &'a str {
        match variable {
            Variable::Token => self.token,
            Variable::Id => self.id,
            Variable::Secret => self.secret,
            Variable::Name => self.name,
            Variable::ContentType => self.content_type,
        }
    }
}

/// A parsed template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Hole(Variable),
}

impl Template {
    /// Parses a template. Literal braces are not supported.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(bad) = text.chars().find(|c| c.is_control()) {
            return Err(format!("{bad:?} is not allowed in a path or header"));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("{ without }")?;
            let variable = Variable::ALL.iter().find(|(_, known)| *known == name);
            let Some((variable, _)) = variable else {
                let known = Variable::ALL.map(|(variable, _)| variable.to_string());
                return Err(format!(
                    "{{{name}}} is unknown; available: {}",
                    known.join(", ")
                ));
            };
            pieces.extend((!before.is_empty()).then(|| Piece::Text(before.to_owned())));
            pieces.push(Piece::Hole(*variable));
            rest = after;
        }
        pieces.extend((!rest.is_empty()).then(|| Piece::Text(rest.to_owned())));
        Ok(Self(pieces))
    }

    /// Whether the template contains this variable.
    pub(crate) fn needs(&self, variable: Variable) -> bool {
        self.0.contains(&Piece::Hole(variable))
    }

    /// Appends the text with the values inserted.
    pub(crate) fn write(&self, values: &Values<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            let text = match piece {
                Piece::Text(text) => text,
                Piece::Hole(variable) => values.get(*variable),
            };
            out.extend_from_slice(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_variables() {
        let values = Values {
            id: "7",
            token: "t",
            ..Values::default()
        };
        for (text, expected) in [
            ("", ""),
            ("/plain", "/plain"),
            ("/files/{id}", "/files/7"),
            ("{id}{token}{secret}x", "7tx"),
        ] {
            let mut out = Vec::new();
            Template::parse(text).unwrap().write(&values, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn rejects_bad_templates() {
        for (text, message) in [
            ("/{id", "{ without }"),
            (
                "/{file}",
                "{file} is unknown; available: {token}, {id}, {secret}, {name}, {content_type}",
            ),
            ("a\r\nb", "'\\r' is not allowed in a path or header"),
        ] {
            assert_eq!(Template::parse(text).unwrap_err(), message);
        }
    }
}

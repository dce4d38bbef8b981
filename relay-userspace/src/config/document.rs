//! Typed access to a TOML document that never stops at the first problem.
//! Owns places, unknown keys and suggestions. Knows no key: whoever asks for one makes it known.

use std::ops::RangeInclusive;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{ConfigErrors, Fault, Problem};

/// A text and the place it stands at, bytes from the start of the file.
pub(super) type Text<'t> = Spanned<&'t str>;

/// The document being read: collects problems and the keys that were asked for.
pub(super) struct Reader<'t> {
    file: &'t Path,
    text: &'t str,
    /// Where each line ends.
    newlines: Vec<usize>,
    problems: Vec<Problem>,
    /// Section ("" is the top level) and name of each key that was asked for.
    known: Vec<(&'static str, &'static str)>,
    unknown: Vec<(&'static str, Text<'t>)>,
}

/// A table of the document, or its absence.
pub(super) struct Section<'t> {
    name: &'static str,
    table: Option<&'t DeTable<'t>>,
    /// Where it starts, of one among several.
    at: Option<usize>,
}

impl Section<'_> {
    /// Whether the key is there, whatever its value is.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }
}

impl<'t> Reader<'t> {
    /// Starts with the syntax errors, as the parser gave them.
    pub(super) fn new(file: &'t Path, text: &'t str, syntax: &[toml::de::Error]) -> Self {
        let mut reader = Self {
            file,
            text,
            newlines: text.match_indices('\n').map(|(at, _)| at).collect(),
            problems: Vec::new(),
            known: Vec::new(),
            unknown: Vec::new(),
        };
        for error in syntax {
            let at = error.span().map(|span| span.start);
            reader.report_at(at, Fault::Syntax(error.message().to_owned()));
        }
        reader
    }

    /// Records a problem at the place of a value.
    pub(super) fn report<T>(&mut self, value: &Spanned<T>, fault: Fault) {
        self.report_at(Some(value.span().start), fault);
    }

    /// Records that something is absent.
    pub(super) fn report_absent(&mut self, fault: Fault) {
        self.report_at(None, fault);
    }

    /// Records a problem of another file.
    pub(super) fn report_in(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn report_at(&mut self, at: Option<usize>, fault: Fault) {
        let place = at.map(|at| line_and_column(self.text, at));
        // One mistake, one message: a value that is wrong is not judged again, nor is what
        // recovery made of a line that could not be parsed.
        let is_same_mistake = |problem: &Problem| {
            let (Some(old), Some(new)) = (problem.place, place) else { return false };
            old == new || (matches!(problem.fault, Fault::Syntax(_)) && old.0 == new.0)
        };
        if !self.problems.iter().any(|old| old.file == self.file && is_same_mistake(old)) {
            self.problems.push(Problem { file: self.file.to_owned(), place, fault });
        }
    }

    /// Records a problem where a section starts, if that is known.
    pub(super) fn report_section(&mut self, section: &Section<'_>, fault: Fault) {
        self.report_at(section.at, fault);
    }

    /// Records a problem at the place of a key; without a place if the key is absent.
    pub(super) fn report_key(&mut self, section: &Section<'_>, key: &str, fault: Fault) {
        let value = section.table.and_then(|table| table.get(key));
        self.report_at(value.map(|value| value.span().start), fault);
    }

    /// The line that a value starts on, from 1.
    pub(super) fn line<T>(&self, value: &Spanned<T>) -> u32 {
        let before = self.newlines.partition_point(|at| *at < value.span().start);
        u32::try_from(before + 1).unwrap_or(u32::MAX)
    }

    /// The file being read.
    pub(super) fn file(&self) -> &'t Path {
        self.file
    }

    /// The directory that relative names in the document start at.
    pub(super) fn directory(&self) -> &'t Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// Reads the top level; what `read` does not ask for is unknown.
    pub(super) fn root<R>(
        &mut self,
        table: &'t DeTable<'t>,
        read: impl FnOnce(&mut Self, &Section<'t>) -> R,
    ) -> R {
        self.keys_of(&Section { name: "", table: Some(table), at: None }, read)
    }

    /// Reads the section `name`, written in full: `a` of the top level, `a.b` of the section `a`.
    /// What `read` does not ask for is unknown.
    pub(super) fn section<R>(
        &mut self,
        root: &Section<'t>,
        name: &'static str,
        read: impl FnOnce(&mut Self, &Section<'t>) -> R,
    ) -> R {
        let key = name.rsplit('.').next().unwrap_or(name);
        let table = self.value(root, key).and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                let fault = wrong_type(&format!("[{name}]"), "a section", other);
                self.report(value, fault);
                None
            }
        });
        self.keys_of(&Section { name, table, at: None }, read)
    }

    /// Reads every table of the array `key`, whose sections are called `name`.
    pub(super) fn tables<R>(
        &mut self,
        root: &Section<'t>,
        key: &'static str,
        name: &'static str,
        mut read: impl FnMut(&mut Self, &Section<'t>) -> R,
    ) -> Vec<R> {
        let Some(value) = self.value(root, key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let fault = wrong_type(&format!("[{name}]"), TABLES, value.get_ref());
            self.report(value, fault);
            return Vec::new();
        };
        let mut all = Vec::new();
        for item in items {
            let DeValue::Table(table) = item.get_ref() else {
                self.report(item, wrong_type(&format!("[{name}]"), TABLES, item.get_ref()));
                continue;
            };
            let section = Section { name, table: Some(table), at: Some(item.span().start) };
            all.push(self.keys_of(&section, &mut read));
        }
        all
    }

    fn keys_of<R>(
        &mut self,
        section: &Section<'t>,
        read: impl FnOnce(&mut Self, &Section<'t>) -> R,
    ) -> R {
        let result = read(self, section);
        for key in section.table.into_iter().flat_map(|table| table.keys()) {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&(section.name, name)) {
                self.unknown.push((section.name, Spanned::new(key.span(), name)));
            }
        }
        result
    }

    fn value(
        &mut self,
        section: &Section<'t>,
        key: &'static str,
    ) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push((section.name, key));
        section.table?.get(key)
    }

    /// A string.
    pub(super) fn text(&mut self, section: &Section<'t>, key: &'static str) -> Option<Text<'t>> {
        let value = self.value(section, key)?;
        self.as_text(value, key, "a string")
    }

    fn as_text(
        &mut self,
        value: &'t Spanned<DeValue<'t>>,
        key: &str,
        expected: &'static str,
    ) -> Option<Text<'t>> {
        if let DeValue::String(text) = value.get_ref() {
            return Some(Spanned::new(value.span(), text.as_ref()));
        }
        self.report(value, wrong_type(key, expected, value.get_ref()));
        None
    }

    /// A list of strings; empty when it is absent.
    pub(super) fn texts(&mut self, section: &Section<'t>, key: &'static str) -> Vec<Text<'t>> {
        let Some(value) = self.value(section, key) else { return Vec::new() };
        if let DeValue::Array(items) = value.get_ref() {
            return items.iter().filter_map(|item| self.as_text(item, key, LIST)).collect();
        }
        self.report(value, wrong_type(key, LIST, value.get_ref()));
        Vec::new()
    }

    /// A table from strings to strings; empty when it is absent.
    pub(super) fn text_table(
        &mut self,
        section: &Section<'t>,
        key: &'static str,
    ) -> Vec<(Text<'t>, Text<'t>)> {
        let Some(value) = self.value(section, key) else { return Vec::new() };
        let DeValue::Table(table) = value.get_ref() else {
            self.report(value, wrong_type(key, TABLE, value.get_ref()));
            return Vec::new();
        };
        let entries = table.iter().filter_map(|(name, value)| {
            let value = self.as_text(value, key, TABLE)?;
            Some((Spanned::new(name.span(), name.get_ref().as_ref()), value))
        });
        entries.collect()
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, section: &Section<'t>, key: &'static str) -> Option<bool> {
        let value = self.value(section, key)?;
        if let DeValue::Boolean(boolean) = value.get_ref() {
            return Some(*boolean);
        }
        self.report(value, wrong_type(key, "true or false", value.get_ref()));
        None
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &mut self,
        section: &Section<'t>,
        key: &'static str,
        bounds: RangeInclusive<u32>,
    ) -> Option<u32> {
        let (low, high) = bounds.into_inner();
        let number = self.wide_number(section, key, low.into()..=high.into())?;
        u32::try_from(number).ok()
    }

    /// The same, where 32 bits are not enough.
    pub(super) fn wide_number(
        &mut self,
        section: &Section<'t>,
        key: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = self.value(section, key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            self.report(value, wrong_type(key, "a whole number", value.get_ref()));
            return None;
        };
        // The parser has removed underscores and the prefix; what does not fit is out of bounds.
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        if let Some(number) = number.filter(|number| bounds.contains(number)) {
            return Some(number);
        }
        let (low, high) = bounds.into_inner();
        self.report(value, Fault::OutOfRange { key, low, high, found: integer.to_string() });
        None
    }

    /// One of several names.
    pub(super) fn choice<T: Copy>(
        &mut self,
        section: &Section<'t>,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let text = self.text(section, key)?;
        let chosen = choices.iter().find(|(name, _)| name == text.get_ref());
        if chosen.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            let fault = Fault::BadValue {
                key,
                expected: format!("one of \"{}\"", names.join("\", \"")),
                found: (*text.get_ref()).to_owned(),
                hint: closest(text.get_ref(), &names)
                    .map_or(String::new(), |name| format!("; did you mean \"{name}\"?")),
            };
            self.report(&text, fault);
        }
        chosen.map(|(_, value)| *value)
    }

    /// The keys that were asked for: section ("" is the top level) and name.
    #[cfg(test)]
    pub(super) fn known(&self) -> &[(&'static str, &'static str)] {
        &self.known
    }

    /// All that is wrong, or nothing.
    pub(super) fn finish(mut self) -> Result<(), ConfigErrors> {
        for (section, key) in std::mem::take(&mut self.unknown) {
            let hint = self.hint(section, key.get_ref());
            let place = if section.is_empty() {
                "at the top level".to_owned()
            } else {
                format!("in `[{section}]`")
            };
            let name = (*key.get_ref()).to_owned();
            self.report(&key, Fault::UnknownKey { name, place, hint });
        }
        // A line that could not be parsed may be the one that is missed.
        if self.problems.iter().any(|problem| matches!(problem.fault, Fault::Syntax(_))) {
            self.problems.retain(|problem| !problem.fault.is_absence());
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(ConfigErrors::new(self.file, self.problems))
    }

    /// What may have been meant by an unknown key.
    fn hint(&self, section: &str, name: &str) -> String {
        let here: Vec<_> =
            self.known.iter().filter(|(other, _)| *other == section).map(|(_, key)| *key).collect();
        if let Some(key) = closest(name, &here) {
            return format!("did you mean `{key}`?");
        }
        match self.known.iter().find(|(_, key)| *key == name) {
            Some(("", _)) => format!("`{name}` belongs at the top, before the first section"),
            Some((home, _)) => format!("`{name}` belongs in `[{home}]`"),
            None => format!("known here: {}", here.join(", ")),
        }
    }
}

const LIST: &str = "a list of strings";
const TABLES: &str = "written as a section for each";
const TABLE: &str = "a table of strings like { key = \"value\" }";

fn wrong_type(key: &str, expected: &'static str, found: &DeValue<'_>) -> Fault {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Fault::WrongType { key: key.to_owned(), expected, found }
}

/// The candidate that `name` is a misspelling of: a third of its letters may be wrong.
fn closest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    let distances =
        candidates.iter().map(|other| (strsim::damerau_levenshtein(&name, other), *other));
    distances
        .filter(|(distance, other)| *distance <= other.len().div_ceil(3))
        .min()
        .map(|(_, other)| other)
}

/// Line and column, in characters, from 1.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

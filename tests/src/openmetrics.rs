//! Reads OpenMetrics text, and accepts nothing that the specification does not.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of a text, by name and labels as they stand there.
pub type Samples = BTreeMap<String, f64>;

/// A family of metrics, as its metadata have it.
#[derive(Debug, Default)]
struct Family {
    kind: Option<String>,
    unit: Option<String>,
    has_help: bool,
}

/// Reads a text.
///
/// # Errors
/// The first line that is not as it should be, and why.
pub fn read(text: &str) -> Result<Samples, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?;
    let mut reader = Reader::default();
    for line in body.split_inclusive('\n') {
        let line_alone = line.strip_suffix('\n').ok_or_else(|| format!("{line:?} has no end"))?;
        reader.take(line_alone).map_err(|why| format!("{line_alone:?}: {why}"))?;
    }
    reader.close()?;
    Ok(reader.samples)
}

#[derive(Debug, Default)]
struct Reader {
    name: String,
    family: Family,
    begun: BTreeSet<String>,
    samples: Samples,
}

impl Reader {
    fn take(&mut self, line: &str) -> Result<(), String> {
        match line.strip_prefix("# ") {
            Some(metadata) => self.metadata(metadata),
            None => self.sample(line),
        }
    }

    fn metadata(&mut self, metadata: &str) -> Result<(), String> {
        let mut parts = metadata.splitn(3, ' ');
        let (kind, name, value) = (parts.next(), parts.next(), parts.next());
        let (Some(kind), Some(name), Some(value)) = (kind, name, value) else {
            return Err("a part is missing".into());
        };
        check_name(name)?;
        if name != self.name {
            self.close()?;
            if !self.begun.insert(name.to_owned()) {
                return Err("the family stands here twice".into());
            }
            self.name = name.to_owned();
        } else if self.samples.keys().any(|series| self.suffix_of(series).is_some()) {
            return Err("metadata behind a sample".into());
        }
        let once = |place: &mut Option<String>| match place.replace(value.to_owned()) {
            None => Ok(()),
            Some(_) => Err("said twice".to_owned()),
        };
        match kind {
            "TYPE" => once(&mut self.family.kind),
            "UNIT" => once(&mut self.family.unit),
            "HELP" if !std::mem::replace(&mut self.family.has_help, true) => Ok(()),
            _ => Err("no such metadata, or twice".into()),
        }
    }

    fn suffix_of<'s>(&self, series: &'s str) -> Option<&'s str> {
        let name = series.split('{').next().unwrap_or_default();
        let suffix = name.strip_prefix(self.name.as_str())?;
        let allowed: &[&str] = match self.family.kind.as_deref() {
            Some("counter") => &["_total", "_created"],
            Some("gauge") => &[""],
            Some("info") => &["_info"],
            _ => &[],
        };
        allowed.contains(&suffix).then_some(suffix)
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let (series, value) = split_sample(line)?;
        let suffix = self.suffix_of(series).ok_or("it is of no family that was begun just before")?;
        let value: f64 = value.parse().map_err(|_| "no number")?;
        if suffix == "_total" && !(value >= 0.0 && value.is_finite()) {
            return Err("no value of a counter".into());
        }
        if suffix == "_info" && value != 1.0 {
            return Err("no value of an info".into());
        }
        match self.samples.insert(series.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err("the series stands here twice".into()),
        }
    }

    /// The family that ends here is as it should be.
    fn close(&mut self) -> Result<(), String> {
        let family = std::mem::take(&mut self.family);
        let suffix = |unit: &String| self.name.ends_with(&format!("_{unit}"));
        if family.unit.as_ref().is_some_and(|unit| !suffix(unit)) {
            return Err(format!("{} does not end with its unit", self.name));
        }
        if !self.name.is_empty() && (family.kind.is_none() || !family.has_help) {
            return Err(format!("{} has no type, or no help", self.name));
        }
        Ok(())
    }
}

/// Name with labels, and value.
fn split_sample(line: &str) -> Result<(&str, &str), String> {
    let name_end = line.find(['{', ' ']).ok_or("no sample")?;
    check_name(&line[..name_end])?;
    let series_end = match line[name_end..].strip_prefix('{') {
        None => name_end,
        Some(labels) => line.len() - after_labels(labels)?.len(),
    };
    let (series, rest) = line.split_at(series_end);
    let value = rest.strip_prefix(' ').ok_or("no blank before the value")?;
    if value.is_empty() || value.contains(' ') { Err("no value alone".into()) } else { Ok((series, value)) }
}

/// What stands behind the labels.
fn after_labels(labels: &str) -> Result<&str, String> {
    let mut names = BTreeSet::new();
    let mut rest = labels;
    loop {
        let (name, quoted) = rest.split_once("=\"").ok_or("a label without a value")?;
        check_name(name)?;
        if name.contains(':') || !names.insert(name.to_owned()) {
            return Err(format!("the label {name}"));
        }
        let mut escaped = false;
        let end = quoted.char_indices().find(|(_, c)| {
            let ends = !escaped && *c == '"';
            escaped = !escaped && *c == '\\';
            ends
        });
        let (value, behind) = quoted.split_at(end.ok_or("a label's value without an end")?.0);
        check_escapes(value)?;
        rest = &behind[1..];
        match rest.chars().next() {
            Some(',') => rest = &rest[1..],
            Some('}') => return Ok(&rest[1..]),
            _ => return Err("labels without an end".into()),
        }
    }
}

fn check_escapes(value: &str) -> Result<(), String> {
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        if character == '\\' && !matches!(characters.next(), Some('\\' | '"' | 'n')) {
            return Err("an escape that there is not".into());
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    let rest = |c: char| first(c) || c.is_ascii_digit();
    if name.starts_with(first) && name.chars().all(rest) {
        Ok(())
    } else {
        Err(format!("{name:?} is no name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_is_read() {
        let text = "# HELP a_seconds b c\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
                    a_seconds_total{x=\"\\\\ \\\" \\n }\",y=\"\"} 1.5\na_seconds_total 2\n\
                    # HELP b b.\n# TYPE b gauge\nb -1\n# EOF\n";
        let samples = read(text).unwrap();
        assert_eq!(samples["a_seconds_total{x=\"\\\\ \\\" \\n }\",y=\"\"}"], 1.5);
        assert_eq!((samples["a_seconds_total"], samples["b"]), (2.0, -1.0));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let head = "# HELP a b\n# TYPE a counter\n";
        for wrong in [
            "a_total 1\n",
            "# EOF\n\n",
            "\n# EOF\n",
            "# HELP a b\n# EOF\n",
            &format!("{head}a 1\n# EOF\n"),
            &format!("{head}a_total -1\n# EOF\n"),
            &format!("{head}a_total NaN\n# EOF\n"),
            &format!("{head}a_total 1 2 3\n# EOF\n"),
            &format!("{head}a_total 1\na_total 1\n# EOF\n"),
            &format!("{head}a_total 1\n# UNIT a s\n# EOF\n"),
            &format!("{head}{head}# EOF\n"),
            &format!("{head}a_total{{x=\"\"y\"}} 1\n# EOF\n"),
            &format!("{head}a_total{{x=\"\\t\"}} 1\n# EOF\n"),
            &format!("{head}a_total{{x=\"\",x=\"\"}} 1\n# EOF\n"),
            &format!("{head}# UNIT a seconds\n# EOF\n"),
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

//! Lines of the fields that name images.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Discovery;
use crate::model::{Usage, yaml};

/// Fills in the lines of the fields, where they stand in files of the revision as they were
/// rendered. `read` gives the bytes of a file below the root of the revision, if it can be had.
pub fn locate(discovery: &mut Discovery, read: &mut dyn FnMut(&str) -> Option<Vec<u8>>) {
    let found = discovery.found.iter_mut().map(|found| (&mut found.usage, found.text.as_str()));
    let fields = discovery.unresolvable.iter_mut().map(|field| (&mut field.usage, field.text.as_str()));
    let mut files: BTreeMap<String, Vec<(&mut Usage, &str)>> = BTreeMap::new();
    for (usage, text) in found.chain(fields) {
        if usage.origin.line.is_some() {
            files.entry(usage.origin.file.clone()).or_default().push((usage, text));
        }
    }
    for (file, usages) in files {
        let Some(text) = read(&file).and_then(|bytes| String::from_utf8(bytes).ok()) else { continue };
        let wanted: BTreeSet<(u64, String)> = usages
            .iter()
            .map(|(usage, _)| (usage.origin.line.unwrap_or_default(), usage.field.clone()))
            .collect();
        let wanted = wanted.iter().map(|(line, field)| (*line, field.as_str())).collect();
        let lines: HashMap<(u64, String), (u64, Option<String>)> = yaml::scalar_lines(&text, &wanted)
            .into_iter()
            .map(|found| ((found.document, found.field), (found.line, found.text)))
            .collect();
        for (usage, text) in usages {
            let key = (usage.origin.line.unwrap_or_default(), usage.field.clone());
            let Some((line, scalar)) = lines.get(&key) else { continue };
            // What a tool put in place of what stands in the file has no line there.
            let same = scalar.as_deref().is_none_or(|scalar| {
                scalar.contains(text) || (!scalar.trim().is_empty() && text.contains(scalar.trim()))
            });
            if same {
                usage.line = Some(*line);
            }
        }
    }
}

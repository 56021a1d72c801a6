//! What a clone says about itself: the URLs of its remotes, and the names of a commit.

use gix::bstr::ByteSlice;

use super::Repository;
use crate::model::GitOid;

/// More remotes and names than an honest clone has.
const MOST: usize = 100_000;

impl Repository {
    /// The URLs of the clone's remotes, as its own configuration has them; sorted.
    #[must_use]
    pub fn remote_urls(&self) -> Vec<String> {
        let local = self.local();
        let config = local.config_snapshot();
        let mut urls = Vec::new();
        for section in config.plumbing().sections_by_name("remote").into_iter().flatten().take(MOST) {
            for key in ["url", "pushurl"] {
                urls.extend(section.values(key).iter().map(|url| url.to_str_lossy().into_owned()));
            }
        }
        urls.sort();
        urls.dedup();
        urls
    }

    /// Full names of the branches, tags and remote branches that mean `commit`; sorted.
    #[must_use]
    pub fn names_of(&self, commit: &GitOid) -> Vec<String> {
        let local = self.local();
        let Ok(platform) = local.references() else { return Vec::new() };
        let Ok(all) = platform.all() else { return Vec::new() };
        let mut names: Vec<String> = all
            .flatten()
            .take(MOST)
            .filter_map(|mut reference| {
                let name = reference.name().as_bstr().to_str().ok()?.to_owned();
                let known = ["refs/heads/", "refs/tags/", "refs/remotes/"];
                if !known.iter().any(|prefix| name.starts_with(prefix)) {
                    return None;
                }
                let target = reference.peel_to_id().ok()?;
                (super::from_oid(&target.detach()) == commit.as_str()).then_some(name)
            })
            .collect();
        names.sort();
        names
    }
}

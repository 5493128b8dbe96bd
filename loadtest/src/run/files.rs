//! The files of a run. Only the seed and the server's responses are kept; contents are generated from the seed.

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

use super::{
    content::{Content, Noise, mix},
    mix::{Weighted, length},
    picture::Pictures,
    scenario::{Class, Scenario},
};
use crate::{Error, client::Expected as _};

/// A file before its upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draft {
    /// Index of its class.
    pub(crate) class: usize,
    /// Seed of its content.
    pub(crate) seed: u64,
    /// Requested length.
    wanted: u64,
}

/// Value of `If-None-Match` or `If-Modified-Since`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Validator {
    /// An entity tag.
    Tag(String),
    /// A date.
    Date(String),
}

/// An uploaded file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Class and seed.
    pub(crate) draft: Draft,
    /// Length in bytes.
    pub(crate) length: u64,
    /// The name sent with the upload.
    pub(crate) name: String,
    /// The server's id.
    pub(crate) id: String,
    /// The file's secret; empty if none is needed.
    pub(crate) secret: String,
    /// The validator from a HEAD response.
    pub(crate) validator: Option<Validator>,
}

/// Generates files.
#[derive(Debug)]
pub(crate) struct Maker {
    noise: Noise,
    pictures: Pictures,
    classes: Vec<Class>,
    by_weight: Weighted,
}

impl Maker {
    /// Creates a maker for the classes of a scenario.
    pub(crate) fn new(classes: &[Class], seed: u64) -> Result<Self, Error> {
        Ok(Self {
            noise: Noise::new(seed),
            pictures: Pictures::new()?,
            classes: classes.to_vec(),
            by_weight: Weighted::new(classes.iter().map(|class| class.weight).collect())?,
        })
    }

    /// A random file by the weights of the classes; `chosen` may exclude classes.
    pub(crate) fn draft(&self, chosen: &[bool], random: &mut SmallRng) -> Draft {
        // At least one class has a weight, and the scenario's checks ensure that no kind excludes all of them.
        loop {
            let class = self.by_weight.choose(random);
            if chosen[class] {
                return self.draft_of(class, random);
            }
        }
    }

    /// A file of the class with the smallest minimum length.
    pub(crate) fn smallest(&self, random: &mut SmallRng) -> Draft {
        let classes = self.classes.iter().enumerate();
        let least = classes.min_by_key(|(_, class)| class.bytes[0]);
        self.draft_of(least.map_or(0, |(index, _)| index), random)
    }

    fn draft_of(&self, class: usize, random: &mut SmallRng) -> Draft {
        let wanted = length(self.classes[class].bytes, random);
        let seed = random.random();
        Draft {
            class,
            seed,
            wanted,
        }
    }

    /// Files to fill a server with, most popular first. Each class gets its share, at least one file.
    pub(crate) fn fill(&self, scenario: &Scenario, seed: u64) -> Vec<Draft> {
        let weights = || self.classes.iter().map(|class| class.weight);
        let has_weight = weights().filter(|weight| *weight > 0.0).count();
        let mut random = SmallRng::seed_from_u64(mix(seed));
        let spare = scenario.files.saturating_sub(has_weight) as f64 / weights().sum::<f64>();
        let mut drafts = Vec::with_capacity(scenario.files);
        for (class, weight) in weights().enumerate().filter(|(_, weight)| *weight > 0.0) {
            let count = 1 + (spare * weight) as usize;
            drafts.extend((0..count).map(|_| self.draft_of(class, &mut random)));
        }
        // Files that rounding down left out.
        let all = vec![true; self.classes.len()];
        while drafts.len() < scenario.files {
            drafts.push(self.draft(&all, &mut random));
        }
        drafts.shuffle(&mut random);
        drafts
    }

    /// The content of a file.
    pub(crate) fn content(&self, draft: &Draft) -> Content {
        let class = &self.classes[draft.class];
        if class.is_picture {
            let jpeg = self.pictures.for_len(draft.wanted);
            Content::picture(&self.noise, draft.seed, draft.wanted, &jpeg)
        } else {
            Content::plain(&self.noise, draft.seed, draft.wanted, &class.start)
        }
    }

    /// The content type of a file.
    pub(crate) fn content_type(&self, draft: &Draft) -> &str {
        &self.classes[draft.class].content_type
    }

    /// A unique name, which contains the seed.
    pub(crate) fn name(&self, draft: &Draft) -> String {
        format!(
            "{:016x}-{}",
            draft.seed, self.classes[draft.class].file_name
        )
    }
}

impl File {
    /// The file after its upload.
    pub(crate) fn new(
        draft: Draft,
        content: &Content,
        name: String,
        id: String,
        secret: String,
    ) -> Self {
        Self {
            draft,
            length: content.length(),
            name,
            id,
            secret,
            validator: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::scenario::CHAT, *};

    #[test]
    fn fill_follows_class_weights() {
        let mut scenario = Scenario::parse(CHAT).unwrap();
        let maker = Maker::new(&scenario.classes, 3).unwrap();
        for files in [5, 6, 99, 1000] {
            scenario.files = files;
            let drafts = maker.fill(&scenario, 3);
            assert_eq!(drafts.len(), files);
            assert_eq!(
                drafts,
                maker.fill(&scenario, 3),
                "the same for the same seed"
            );
            for (index, class) in scenario.classes.iter().enumerate() {
                let count = drafts.iter().filter(|draft| draft.class == index).count();
                let share = class.weight / 100.0 * files as f64;
                assert!(
                    count >= 1 && (count as f64 - share).abs() < 8.0,
                    "{files} {}: {count}",
                    class.name
                );
            }
        }
    }

    #[test]
    fn chat_files_have_lengths_of_class() {
        let scenario = Scenario::parse(CHAT).unwrap();
        let maker = Maker::new(&scenario.classes, 3).unwrap();
        for draft in maker.fill(&scenario, 3) {
            let [min, max] = scenario.classes[draft.class].bytes;
            let content = maker.content(&draft);
            assert!((min..=max).contains(&content.length()), "{draft:?}");
            let other = maker.content(&Draft {
                seed: draft.seed ^ 1,
                ..draft
            });
            assert!(!other.matches(0, &content.pieces().concat()), "{draft:?}");
        }
    }
}

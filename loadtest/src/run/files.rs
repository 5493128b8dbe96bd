//! The files of a run: what is known of each, and what it holds. Only its seed and what the server said of it are
//! kept; its bytes are made from these.

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

use super::{
    content::{Content, Noise, mix},
    mix::{Weighted, length},
    picture::Pictures,
    scenario::{Class, Scenario},
};
use crate::{Error, client::Expected as _};

/// What a file is, before a server knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draft {
    /// Index of its class.
    pub(crate) class: usize,
    /// What its bytes are made from.
    pub(crate) seed: u64,
    /// The length that it is to have.
    wanted: u64,
}

/// What is sent as `If-None-Match` or `If-Modified-Since`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Validator {
    /// An entity tag.
    Tag(String),
    /// A date.
    Date(String),
}

/// A file that a server has.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// What it holds.
    pub(crate) draft: Draft,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// The name that it was given.
    pub(crate) name: String,
    /// As the server calls it.
    pub(crate) id: String,
    /// What opens it; empty where nothing is needed.
    pub(crate) secret: String,
    /// What the server said when it was asked for its head.
    pub(crate) validator: Option<Validator>,
}

/// Makes files.
#[derive(Debug)]
pub(crate) struct Maker {
    noise: Noise,
    pictures: Pictures,
    classes: Vec<Class>,
    by_weight: Weighted,
}

impl Maker {
    /// For the classes of a scenario.
    pub(crate) fn new(classes: &[Class], seed: u64) -> Result<Self, Error> {
        Ok(Self {
            noise: Noise::new(seed),
            pictures: Pictures::new()?,
            classes: classes.to_vec(),
            by_weight: Weighted::new(classes.iter().map(|class| class.weight).collect())?,
        })
    }

    /// Any file, by the weights of the classes; `chosen` may leave some out.
    pub(crate) fn draft(&self, chosen: &[bool], random: &mut SmallRng) -> Draft {
        // One class has a weight, and the scenario's checks let no kind leave all of those out.
        loop {
            let class = self.by_weight.choose(random);
            if chosen[class] {
                return self.draft_of(class, random);
            }
        }
    }

    /// A file of the class with the least bound.
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

    /// The files to fill a server with, most popular first: of each class its share, and one at the least.
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
        // What was rounded down.
        let all = vec![true; self.classes.len()];
        while drafts.len() < scenario.files {
            drafts.push(self.draft(&all, &mut random));
        }
        drafts.shuffle(&mut random);
        drafts
    }

    /// The bytes of a file.
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

    /// A name that no other file has, with the seed it was made from.
    pub(crate) fn name(&self, draft: &Draft) -> String {
        format!(
            "{:016x}-{}",
            draft.seed, self.classes[draft.class].file_name
        )
    }
}

impl File {
    /// As the server has it after its upload.
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
    fn a_server_is_filled_with_each_class_by_its_share() {
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
    fn files_of_the_chat_mix_have_the_lengths_of_their_class() {
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

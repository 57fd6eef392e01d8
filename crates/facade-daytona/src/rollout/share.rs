//! How new sandboxes are divided: by a place that a value keeps, or evenly.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The part of new sandboxes that is made here, percent from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

impl Share {
    /// Nothing is made here.
    pub const NONE: Self = Self(0.0);
    /// Everything is made here.
    pub const ALL: Self = Self(100.0);

    /// From a number; `None` for one that is not from 0 to 100.
    #[must_use]
    pub fn new(percent: f64) -> Option<Self> {
        // Not -0, which would be shown.
        (0.0..=100.0)
            .contains(&percent)
            .then_some(Self(percent.abs()))
    }

    /// The number.
    #[must_use]
    pub fn percent(self) -> f64 {
        self.0
    }

    /// Whether what has this place is made here.
    pub(crate) fn takes(self, place: Place) -> bool {
        place.0 < self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(percent: f64) -> Result<Self, String> {
        Self::new(percent).ok_or_else(|| format!("a share is from 0 to 100, not {percent}"))
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// Where a value stands between 0 (moves first) and, not included, 100.
///
/// It never changes, so that a raised share only ever moves values here, and a
/// lowered one moves exactly the last ones back.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Place(f64);

impl Place {
    /// The place of a value; the same as `place_of` of `sandboxai.suna.rollout`,
    /// so that both divide alike.
    pub(crate) fn of(value: &str) -> Self {
        /// Numbers of six bytes, which a float holds exactly.
        const NUMBERS: f64 = (1u64 << 48) as f64;
        let digest = Sha256::new()
            .chain_update("rollout:")
            .chain_update(value)
            .finalize();
        let number = digest
            .iter()
            .take(6)
            .fold(0.0, |number, byte| number * 256.0 + f64::from(*byte));
        Self(number / NUMBERS * 100.0)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0)
    }
}

/// Divides what has no place: of any hundred in a row, as many as the share says
/// (one more or less where that is no whole number) are made here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread {
    /// What is owed to this side, hundredths of a sandbox.
    owed: f64,
}

impl Spread {
    /// Whether the next one is made here.
    pub(crate) fn next(&mut self, share: Share) -> bool {
        /// What adding up fractions may have lost.
        const TOLERANCE: f64 = 1e-6;
        self.owed += share.0;
        let ours = self.owed >= 100.0 - TOLERANCE;
        if ours {
            self.owed -= 100.0;
        }
        ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(percent: f64) -> Share {
        Share::new(percent).unwrap()
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "the same arithmetic gives the same bits")]
    fn places_are_those_of_the_python_package() {
        // Computed with place_of of python/sandboxai/suna/rollout.py.
        for (value, place) in [
            ("", 38.045_776_912_768_4),
            ("a", 5.267_876_373_454_428),
            ("project-1", 35.240_229_263_630_24),
            ("проект", 44.823_684_472_249_07),
            (
                "0b6c4f0e-8a53-4c3d-9a93-1f0a6a2f7f10",
                4.512_937_308_813_036_5,
            ),
            (&"b".repeat(300), 97.093_862_918_588_41),
        ] {
            assert_eq!(Place::of(value).0, place, "{value}");
        }
    }

    #[test]
    fn a_share_is_from_0_to_100() {
        for bad in [-0.1, 100.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Share::new(bad), None, "{bad}");
        }
        assert_eq!(share(-0.0).to_string(), "0 %");
        assert_eq!(share(12.5).to_string(), "12.5 %");
        assert!(!Share::NONE.takes(Place(0.0)));
        assert!(Share::ALL.takes(Place::of("anything")));
    }

    proptest! {
        #[test]
        fn a_raised_share_only_moves_here_and_a_lowered_one_exactly_the_last_back(
            values in prop::collection::hash_set("[a-z0-9]{1,12}", 1..60),
            low in 0.0..=100.0f64,
            high in 0.0..=100.0f64,
        ) {
            let (low, high) = (low.min(high), low.max(high));
            for value in values {
                let place = Place::of(&value);
                prop_assert!((0.0..100.0).contains(&place.0));
                let (before, after) = (share(low).takes(place), share(high).takes(place));
                prop_assert!(!before || after, "{} moved back", value);
                let between = low <= place.0 && place.0 < high;
                prop_assert_eq!(between, before != after);
            }
        }

        #[test]
        fn any_hundred_in_a_row_hold_the_share(percent in 0.0..=100.0f64, skip in 0usize..300) {
            let mut spread = Spread::default();
            let drawn: Vec<bool> = (0..skip + 100).map(|_| spread.next(share(percent))).collect();
            let ours = drawn[skip..].iter().filter(|ours| **ours).count();
            let difference = f64::from(u32::try_from(ours).unwrap()) - percent;
            prop_assert!(difference.abs() <= 1.0, "{} of 100 at {}", ours, percent);
        }

        #[test]
        fn whole_shares_are_met_exactly_also_after_changes(
            shares in prop::collection::vec(0u8..=100, 1..6),
        ) {
            let mut spread = Spread::default();
            for percent in shares {
                let of = share(f64::from(percent));
                let ours = (0..100).filter(|_| spread.next(of)).count();
                prop_assert_eq!(ours, usize::from(percent));
            }
        }
    }
}

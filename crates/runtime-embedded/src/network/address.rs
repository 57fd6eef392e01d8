//! A network of version 4 addresses, written `10.0.0.0/8`.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Number of bits in an address.
const ADDRESS_BITS: u8 = 32;

/// A version 4 network: its first address and the number of fixed leading bits.
///
/// The bits after the prefix are always zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Network {
    first: u32,
    prefix_bits: u8,
}

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not four numbers from 0 to 255 with an optional prefix length.
    #[error("{text:?} is not a network of IPv4 addresses; write it as 10.0.0.0/8")]
    Syntax {
        /// What was given, shortened.
        text: String,
    },
    /// The address lies inside the network instead of at its start.
    #[error("{text:?} has bits set after its prefix; the network that it lies in is {network}")]
    HostBits {
        /// What was given.
        text: String,
        /// The network meant.
        network: Ipv4Network,
    },
}

impl Ipv4Network {
    /// The network of the first `prefix_bits` bits of `address`; at most 32.
    const fn around(address: Ipv4Addr, prefix_bits: u8) -> Self {
        let first = u32::from_be_bytes(address.octets()) & mask(prefix_bits);
        Self { first, prefix_bits }
    }

    /// The first address.
    #[must_use]
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from(self.first)
    }

    /// How many leading bits are fixed, from 0 to 32.
    #[must_use]
    pub fn prefix_bits(self) -> u8 {
        self.prefix_bits
    }

    /// Whether `address` belongs to the network.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix_bits) == self.first
    }

    /// The address `offset` places after the first, if it is still inside.
    #[must_use]
    pub fn address_at(self, offset: u64) -> Option<Ipv4Addr> {
        let address = u32::try_from(u64::from(self.first).checked_add(offset)?).ok()?;
        let address = Ipv4Addr::from(address);
        self.contains(address).then_some(address)
    }
}

/// The default of [`super::NetworkConfig`] and other constants: four octets and a prefix.
pub(super) const fn network(octets: [u8; 4], prefix_bits: u8) -> Ipv4Network {
    let [a, b, c, d] = octets;
    Ipv4Network::around(Ipv4Addr::new(a, b, c, d), prefix_bits)
}

/// The bits that the prefix fixes; `prefix_bits` is at most 32.
const fn mask(prefix_bits: u8) -> u32 {
    match prefix_bits {
        0 => 0,
        bits => u32::MAX << (ADDRESS_BITS - bits),
    }
}

impl FromStr for Ipv4Network {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let syntax = || AddressError::Syntax {
            text: text.chars().take(40).collect(),
        };
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| syntax())?;
        // `u8::from_str` takes "+8" and "08" too, which other tools read differently.
        let plain = matches!(
            prefix.as_bytes(),
            [b'0'..=b'9'] | [b'1'..=b'9', b'0'..=b'9']
        );
        let prefix_bits: u8 = match prefix.parse() {
            Ok(bits) if plain && bits <= ADDRESS_BITS => bits,
            _ => return Err(syntax()),
        };
        let network = Self::around(address, prefix_bits);
        if network.first() == address {
            Ok(network)
        } else {
            Err(AddressError::HostBits {
                text: text.to_owned(),
                network,
            })
        }
    }
}

impl fmt::Display for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.prefix_bits)
    }
}

impl fmt::Debug for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Ipv4Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ipv4Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bad_networks_are_refused_with_a_hint() {
        for bad in [
            "",
            "10",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0/8",
            "010.0.0.0/8",
            "::/0",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
        ] {
            assert!(
                matches!(bad.parse::<Ipv4Network>(), Err(AddressError::Syntax { .. })),
                "{bad:?}"
            );
        }
        let error = "10.1.2.3/8".parse::<Ipv4Network>().unwrap_err();
        assert!(error.to_string().ends_with("10.0.0.0/8"), "{error}");
    }

    #[test]
    fn a_lone_address_is_a_network_of_one() {
        let network: Ipv4Network = "168.63.129.16".parse().unwrap();
        assert_eq!(network.to_string(), "168.63.129.16/32");
        assert!(network.address_at(1).is_none());
    }

    proptest! {
        #[test]
        fn every_network_reads_back_and_holds_its_ends(address: u32, prefix_bits in 0u8..=32) {
            let network = Ipv4Network::around(Ipv4Addr::from(address), prefix_bits);
            prop_assert_eq!(network.to_string().parse::<Ipv4Network>().unwrap(), network);
            prop_assert!(network.contains(Ipv4Addr::from(address)));
            let size = 1u64 << (ADDRESS_BITS - prefix_bits);
            let last = network.address_at(size - 1).unwrap();
            prop_assert!(network.contains(last));
            prop_assert!(network.address_at(size).is_none());
            if let Some(after) = u32::from(last).checked_add(1) {
                prop_assert!(!network.contains(Ipv4Addr::from(after)));
            }
            let json = serde_json::to_string(&network).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ipv4Network>(&json).unwrap(), network);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<Ipv4Network>();
        }
    }
}

//! Names of members, regions, sites and the zone.
//!
//! Members, regions and sites are single DNS labels, because each becomes one: `<site>.<zone>`,
//! `<member>.node.<zone>`, `<region>.region.<zone>`. They are lower case from the start, so that
//! comparing them is comparing bytes.

use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name cannot be empty")]
    Empty,
    /// A label has more than 63 octets (RFC 1035, 2.3.4).
    #[error("a label has at most 63 characters, this one has {0}")]
    LabelTooLong(usize),
    /// A domain name has more than 253 characters.
    #[error("a domain name has at most 253 characters, this one has {0}")]
    TooLong(usize),
    /// Only letters, digits and inner hyphens make a host name (RFC 1123, 2.1).
    #[error("{0:?} is not allowed in a name: use letters, digits and hyphens between them")]
    Character(char),
    /// The label is one that the zone uses itself.
    #[error("{0:?} is reserved by the zone itself")]
    Reserved(String),
}

fn check_label(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some(bad) = text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        return Err(NameError::Character(bad));
    }
    if text.len() > 63 {
        return Err(NameError::LabelTooLong(text.len()));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Character('-'));
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, reserved: $reserved:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text, lower case.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let text = text.to_ascii_lowercase();
                check_label(&text)?;
                let reserved: &[&str] = $reserved;
                if reserved.contains(&text.as_str()) {
                    return Err(NameError::Reserved(text));
                }
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

label! {
    /// A published name and its versions: the label before the zone.
    SiteName, reserved: &["node", "region", "ns"]
}
label! {
    /// The name of a member, unique in its network.
    MemberName, reserved: &[]
}
label! {
    /// Where members are, for example `ap-tokyo`.
    RegionName, reserved: &[]
}
label! {
    /// The name of a health check, unique for its member.
    CheckName, reserved: &[]
}

/// The DNS zone of a network, without the trailing dot, for example `edge.example.org`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZoneName(Arc<str>);

impl ZoneName {
    /// The zone as text, lower case, without the trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The site that `host` names in this zone; `None` when it names none. Case and a trailing
    /// dot do not matter.
    pub fn site_of(&self, host: &str) -> Option<SiteName> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let split = host.len().checked_sub(self.0.len() + 1)?;
        let (label, rest) = (host.get(..split)?, host.get(split..)?);
        let zone = rest.strip_prefix('.')?;
        zone.eq_ignore_ascii_case(&self.0).then(|| label.parse().ok())?
    }
}

impl FromStr for ZoneName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > 253 {
            return Err(NameError::TooLong(text.len()));
        }
        text.split('.').try_for_each(check_label)?;
        Ok(ZoneName(text.into()))
    }
}

impl TryFrom<String> for ZoneName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ZoneName> for String {
    fn from(zone: ZoneName) -> String {
        zone.0.as_ref().to_owned()
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_lower_case_and_checked() {
        assert_eq!("WWW".parse::<SiteName>().unwrap().as_str(), "www");
        assert_eq!("".parse::<SiteName>(), Err(NameError::Empty));
        assert_eq!("a b".parse::<SiteName>(), Err(NameError::Character(' ')));
        assert_eq!("-a".parse::<SiteName>(), Err(NameError::Character('-')));
        assert_eq!("a".repeat(64).parse::<SiteName>(), Err(NameError::LabelTooLong(64)));
        assert_eq!("node".parse::<SiteName>(), Err(NameError::Reserved("node".into())));
    }

    #[test]
    fn zone_tells_the_site_of_a_host() {
        let zone: ZoneName = "Edge.Example.org.".parse().unwrap();
        assert_eq!(zone.as_str(), "edge.example.org");
        assert_eq!(zone.site_of("www.edge.example.org").unwrap().as_str(), "www");
        assert_eq!(zone.site_of("WWW.EDGE.example.org.").unwrap().as_str(), "www");
        assert_eq!(zone.site_of("edge.example.org"), None);
        assert_eq!(zone.site_of("a.b.edge.example.org"), None);
        assert_eq!(zone.site_of("wwwedge.example.org"), None);
        assert_eq!(zone.site_of("www.other.example.org"), None);
    }
}

//! Asks drivers whether they take VLAN tags out of frames before XDP sees them. Such frames look
//! untagged: relayed packets leave as their next hops say, but an answer that goes back the way
//! its request came leaves without the tag.

use std::io;
use std::time::Duration;

use ethtool::{EthtoolAttr, EthtoolError, EthtoolFeatureAttr, EthtoolFeatureBit};
use futures_util::TryStreamExt;
use tokio::time::timeout;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Features of that kind, and what `ethtool -K` calls them.
const HIDING: [(&str, &str); 2] =
    [("rx-vlan-hw-parse", "rxvlan"), ("rx-vlan-stag-hw-parse", "rx-vlan-stag-hw-parse")];

/// The command that makes an interface leave tags where XDP sees them; `None` if it does.
///
/// # Errors
/// Nothing answers, or not in time, or that there is no such interface.
pub(super) async fn command_to_show(interface: &str) -> io::Result<Option<String>> {
    let (connection, mut handle, _) = ethtool::new_connection()?;
    let connection = tokio::spawn(connection);
    let answers = async {
        let answers = handle.feature().get(Some(interface)).execute().await?;
        answers.try_collect::<Vec<_>>().await
    };
    let answers = timeout(ANSWER_MAX, answers).await;
    connection.abort();
    let answers = answers.map_err(io::Error::from)?.map_err(refused)?;
    let attributes = answers.into_iter().flat_map(|answer| answer.payload.nlas);
    let active = attributes.filter_map(|attribute| match attribute {
        EthtoolAttr::Feature(EthtoolFeatureAttr::Active(features)) => Some(features),
        _ => None,
    });
    Ok(command(interface, &active.flatten().collect::<Vec<_>>()))
}

fn refused(error: EthtoolError) -> io::Error {
    io::Error::other(error.to_string())
}

fn command(interface: &str, active: &[EthtoolFeatureBit]) -> Option<String> {
    let is_on = |name| active.iter().any(|feature| feature.value && feature.name == name);
    let off = HIDING.iter().filter(|(name, _)| is_on(*name));
    let off: String = off.map(|(_, word)| format!(" {word} off")).collect();
    (!off.is_empty()).then(|| format!("ethtool -K {interface}{off}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_what_hides_tags_and_nothing_else() {
        let feature = |name: &str, value| EthtoolFeatureBit { index: 1, name: name.into(), value };
        let all = [feature("rx-gro", true), feature("rx-vlan-hw-parse", true)];
        assert_eq!(command("eth0", &all).unwrap(), "ethtool -K eth0 rxvlan off");
        let both = [&all[..], &[feature("rx-vlan-stag-hw-parse", true)]].concat();
        let shown = command("eth0", &both).unwrap();
        assert_eq!(shown, "ethtool -K eth0 rxvlan off rx-vlan-stag-hw-parse off");
        assert_eq!(command("eth0", &[feature("rx-vlan-hw-parse", false)]), None);
        assert_eq!(command("eth0", &[]), None);
    }

    #[tokio::test]
    async fn loopback_hides_no_tags_and_what_is_not_there_is_an_error() {
        assert_eq!(command_to_show("lo").await.unwrap(), None);
        assert!(command_to_show("no-such-if").await.is_err());
    }
}

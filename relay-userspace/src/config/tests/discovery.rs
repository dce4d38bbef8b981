//! `discovery`: pairs that are some, and those that are none.

use super::{check_listen, read};
use crate::config::Config;

fn with(discovery: &str) -> Result<Config, String> {
    read(&format!(
        "realm = \"example.org\"\nauth.secrets = [\"s3cr3t-0\"]\n[listen]\n\
         udp = [\"192.0.2.1:3478\", \"[::]:3478\"]\ndiscovery = {discovery}"
    ))
}

#[test]
fn a_pair_is_listened_to_in_all_four_combinations() {
    let config = with("[\"192.0.2.1:3478\", \"192.0.2.2:5000\"]").unwrap();
    let listen: Vec<_> = config.listen_udp.iter().map(ToString::to_string).collect();
    assert_eq!(
        listen,
        ["192.0.2.1:3478", "[::]:3478", "192.0.2.1:5000", "192.0.2.2:3478", "192.0.2.2:5000"]
    );
    assert_eq!(config.discoveries.len(), 1);
    let both = "[\"[2a00::1]:1\", \"192.0.2.1:3478\", \"[2a00::2]:2\", \"192.0.2.2:5000\"]";
    let config = with(both).unwrap();
    assert_eq!((config.discoveries.len(), config.listen_udp.len()), (2, 9));
    assert_eq!(with("[]").unwrap().discoveries, []);
}

#[test]
fn what_is_no_pair_is_refused() {
    let pair = |listen: &str| {
        let shown = with(listen).unwrap_err();
        assert!(shown.contains("t.toml:5:14: `discovery` needs two addresses"), "{shown}");
    };
    pair("[\"192.0.2.1:3478\"]");
    pair("[\"192.0.2.1:3478\", \"[2a00::1]:3479\"]");
    pair("[\"192.0.2.1:3478\", \"192.0.2.1:3479\"]");
    pair("[\"192.0.2.1:3478\", \"192.0.2.2:3478\"]");
    pair("[\"0.0.0.0:3478\", \"192.0.2.2:3479\"]");
    pair("[\"192.0.2.1:0\", \"192.0.2.2:3479\"]");
    pair("[\"192.0.2.1:3478\", \"192.0.2.2:3479\", \"192.0.2.3:3480\"]");
    check_listen(
        "udp = [\"192.0.2.1:3478\"]\ndiscovery = [\"192.0.2.1\", \"192.0.2.2:3479\"]",
        "t.toml:5:14: `listen.discovery` must be an address and a port like \"192.0.2.1:3478\", \
         not `192.0.2.1`; the port is missing: \"192.0.2.1:3478\"",
    );
    let shown = with("[\"192.0.2.1:3478\", \"192.0.2.2:50000\"]").unwrap_err();
    assert!(shown.contains("is one of the relayed ports"), "{shown}");
}

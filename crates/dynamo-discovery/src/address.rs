//! Addresses at which no worker is ever: link-local ones, and those of clouds' metadata services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata and control services at IPv4 addresses that are not link-local.
const SERVICES_V4: [Ipv4Addr; 3] = [
    // Alibaba Cloud.
    Ipv4Addr::new(100, 100, 100, 200),
    // Azure's host agent.
    Ipv4Addr::new(168, 63, 129, 16),
    // Oracle Cloud, before it moved to a link-local one.
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Metadata and control services at IPv6 addresses that are not link-local.
const SERVICES_V6: [Ipv6Addr; 2] = [
    // Google Cloud.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Oracle Cloud.
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// Whether an address is never a worker's: it is link-local (RFC 3927, RFC 4291), or a cloud has a
/// metadata service there, which hands out credentials.
///
/// An IPv6 address that stands for an IPv4 address is judged by both: mapped and compatible
/// (RFC 4291), translated (RFC 7915), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380)
/// and ISATAP (RFC 5214).
///
/// This keeps accidents and simple attacks away. It is no fence: an address that leads to such a
/// service by a route of the network's own is not known here.
///
/// ```
/// use dynamo_discovery::is_forbidden_address;
///
/// assert!(is_forbidden_address("169.254.169.254".parse()?));
/// assert!(is_forbidden_address("fe80::1".parse()?));
/// assert!(is_forbidden_address("64:ff9b::a9fe:a9fe".parse()?), "169.254.169.254 by NAT64");
/// assert!(!is_forbidden_address("192.0.2.1".parse()?));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub fn is_forbidden_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || SERVICES_V6.contains(&v6)
                // AWS has all of its instance services below this prefix.
                || v6.segments().starts_with(&[0xfd00, 0xec2])
                || wrapped(v6).into_iter().flatten().any(is_forbidden_v4)
        }
    }
}

fn is_forbidden_v4(v4: Ipv4Addr) -> bool {
    v4.is_link_local() || SERVICES_V4.contains(&v4)
}

/// The IPv4 addresses for which an IPv6 address may stand.
fn wrapped(v6: Ipv6Addr) -> [Option<Ipv4Addr>; 6] {
    let bytes = v6.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| bytes[place]));
    let last = at([12, 13, 14, 15]);
    let starts = |prefix: &[u8]| bytes.starts_with(prefix);

    const NAT64: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    const NAT64_LOCAL: [u8; 6] = [0, 0x64, 0xff, 0x9b, 0, 1];
    const TRANSLATED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    const TEREDO: [u8; 4] = [0x20, 1, 0, 0];
    let is_isatap = matches!(bytes[8..12], [0 | 2, 0, 0x5e, 0xfe]);
    let is_local = starts(&NAT64_LOCAL);
    let ends = starts(&NAT64) || starts(&TRANSLATED) || is_isatap || is_local;
    [
        // Mapped (`::ffff:a.b.c.d`) or compatible (`::a.b.c.d`).
        v6.to_ipv4(),
        ends.then_some(last),
        starts(&[0x20, 2]).then(|| at([2, 3, 4, 5])),
        // Teredo's server is as it is, and its client has all bits inverted.
        starts(&TEREDO).then(|| at([4, 5, 6, 7])),
        starts(&TEREDO).then(|| Ipv4Addr::from(last.octets().map(|byte| !byte))),
        // With a prefix of 48 bits, byte 8 is left out (RFC 6052 section 2.2).
        is_local.then(|| at([6, 7, 9, 10])),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_forbidden(address: &str) -> bool {
        is_forbidden_address(address.parse().unwrap())
    }

    #[test]
    fn link_local_and_metadata_addresses_are_forbidden_in_every_form() {
        for address in [
            "169.254.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::100.100.100.200",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "2002:a9fe:a9fe::",
            "2002:a83f:8110::1",
            // The server of a Teredo address, and its client.
            "2001:0:a9fe:a9fe::",
            "2001:0:c000:201::5601:5601",
            "2001:db8::5efe:169.254.169.254",
            "2001:db8::200:5efe:169.254.169.254",
        ] {
            assert!(is_forbidden(address), "{address}");
        }
    }

    #[test]
    fn addresses_of_workers_are_not() {
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "192.0.2.1",
            "100.100.100.201",
            "168.63.129.17",
            "::1",
            "fd00:ec3::254",
            "2001:db8::1",
            "2001:db8::a9fe:a9fe",
            "::ffff:192.0.2.1",
            "64:ff9b::192.0.2.1",
            "2002:c000:201::a9fe:a9fe",
            "2001:0:c000:201::3fff:fdfe",
        ] {
            assert!(!is_forbidden(address), "{address}");
        }
    }

    proptest! {
        #[test]
        fn every_link_local_address_is_forbidden_in_each_form(low in any::<u16>(), high in any::<u128>()) {
            let v4 = 0xa9fe_0000_u32 | u32::from(low);
            let with = |prefix: u128, bits: u32| prefix | u128::from(v4) << bits;
            for address in [
                with(0, 0),
                with(0xffff << 32, 0),
                with(0x0064_ff9b << 96, 0),
                with(0x2002 << 112, 80) | high >> 48,
                with(0x2001_0000 << 96, 64) | high >> 64,
                with(high >> 64 << 64 | 0x5efe << 32, 0),
            ] {
                prop_assert!(is_forbidden_address(Ipv6Addr::from(address).into()));
            }
        }
    }
}

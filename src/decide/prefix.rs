//! Sets of address prefixes with longest-match look-up, for `allow`, `deny` and `from`.
//! One hash set per prefix length in use, so that the cost is the number of different lengths, not of prefixes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Maps address prefixes to values; the longest prefix that contains an address wins.
#[derive(Clone, Debug)]
pub struct PrefixMap<V> {
    v4: Vec<(u8, HashMap<u32, V>)>,
    v6: Vec<(u8, HashMap<u128, V>)>,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<V: Copy> PrefixMap<V> {
    /// Whether no prefix is in the map.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Adds a prefix; host bits are ignored. A prefix that is already there gets the new value.
    pub fn insert(&mut self, prefix: IpNet, value: V) {
        match prefix.trunc() {
            IpNet::V4(net) => level(&mut self.v4, net.prefix_len()).insert(net.network().to_bits(), value),
            IpNet::V6(net) => level(&mut self.v6, net.prefix_len()).insert(net.network().to_bits(), value),
        };
    }

    /// All prefixes with their values, long ones first, each length in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, V)> {
        let v4 = self.v4.iter().flat_map(|(length, map)| {
            let mut sorted: Vec<_> = map.iter().map(|(bits, value)| (*bits, *value)).collect();
            sorted.sort_by_key(|(bits, _)| *bits);
            sorted
                .into_iter()
                .filter_map(|(bits, value)| Some((net(Ipv4Addr::from_bits(bits).into(), *length)?, value)))
        });
        let v6 = self.v6.iter().flat_map(|(length, map)| {
            let mut sorted: Vec<_> = map.iter().map(|(bits, value)| (*bits, *value)).collect();
            sorted.sort_by_key(|(bits, _)| *bits);
            sorted
                .into_iter()
                .filter_map(|(bits, value)| Some((net(Ipv6Addr::from_bits(bits).into(), *length)?, value)))
        });
        v4.chain(v6)
    }

    /// The value of the longest prefix that contains `address`. An IPv4-mapped IPv6 address is looked up as IPv4.
    pub fn longest(&self, address: IpAddr) -> Option<V> {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let bits = v4.to_bits();
                self.v4.iter().find_map(|(length, map)| {
                    map.get(&(bits & u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0))).copied()
                })
            }
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                self.v6.iter().find_map(|(length, map)| {
                    map.get(&(bits & u128::MAX.checked_shl(128 - u32::from(*length)).unwrap_or(0))).copied()
                })
            }
        }
    }
}

fn net(address: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(address, length).ok()
}

/// The map for one prefix length, made when missing; levels stay sorted from long to short.
fn level<K, V>(levels: &mut Vec<(u8, HashMap<K, V>)>, length: u8) -> &mut HashMap<K, V> {
    let position = levels.partition_point(|(other, _)| *other > length);
    if levels.get(position).is_none_or(|(other, _)| *other != length) {
        levels.insert(position, (length, HashMap::new()));
    }
    &mut levels[position].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prefixes: &[(&str, u8)], address: &str, want: Option<u8>) {
        let mut map = PrefixMap::default();
        for (prefix, value) in prefixes {
            map.insert(prefix.parse().expect("prefix"), *value);
        }
        assert_eq!(map.longest(address.parse().expect("address")), want, "{address} in {prefixes:?}");
    }

    #[test]
    fn longest_prefix_wins() {
        let table = [("0.0.0.0/0", 0), ("10.0.0.0/8", 1), ("10.1.2.3/32", 2), ("::/0", 3), ("2001:db8::/32", 4)];
        check(&table, "192.0.2.1", Some(0));
        check(&table, "10.200.0.1", Some(1));
        check(&table, "10.1.2.3", Some(2));
        check(&table, "::1", Some(3));
        check(&table, "2001:db8::9", Some(4));
        check(&table, "::ffff:10.1.2.3", Some(2));
        check(&[], "10.1.2.3", None);
        check(&[("10.1.2.3/8", 7)], "10.9.9.9", Some(7));
    }
}

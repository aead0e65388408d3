//! How much of what a member serves is for the sites of each table.

use crate::asked::Rates;
use crate::inputs::Inputs;
use godwit_core::name::SiteName;
use std::collections::BTreeMap;

const SHARE_ONE: u64 = 1 << 20;

/// For each table, how much of what each member serves is for its sites, parts of [`SHARE_ONE`].
pub(super) fn shares_of_tables(
    inputs: &Inputs,
    tables: usize,
    table_of: &BTreeMap<SiteName, u32>,
) -> Vec<Vec<u64>> {
    let mut sites = vec![0u64; tables];
    table_of.values().for_each(|table| sites[*table as usize] += 1);
    let by_count = |table: usize| sites[table] * SHARE_ONE / (table_of.len() as u64).max(1);
    let mut shares: Vec<Vec<u64>> =
        (0..tables).map(|table| vec![by_count(table); inputs.members.len()]).collect();
    for (member, input) in inputs.members.iter().enumerate() {
        let Some(demand) = inputs.demands.iter().find(|demand| demand.member == input.id) else { continue };
        let mut rates = vec![0u64; tables];
        for (site, rate) in &demand.sites {
            if let Some(table) = table_of.get(site) {
                rates[*table as usize] += u64::from(*rate);
            }
        }
        let sum: u64 = rates.iter().sum();
        if sum > 0 {
            let share = |rate: u64| (u128::from(rate) * u128::from(SHARE_ONE) / u128::from(sum)) as u64;
            shares.iter_mut().zip(&rates).for_each(|(shares, rate)| shares[member] = share(*rate));
        }
    }
    shares
}

/// The part of these rates that is for a table's sites.
pub(super) fn rates_of(rates: &Rates, shares: &[u64]) -> Rates {
    let part = |member: u32, rate: u64| {
        (u128::from(rate) * u128::from(shares[member as usize]) / u128::from(SHARE_ONE)) as u64
    };
    rates.iter().map(|(member, rate)| (*member, part(*member, *rate))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::DemandInput;
    use crate::inputs::tests::{inputs, node};

    #[test]
    fn who_tells_sites_is_divided_by_them_and_others_by_their_number() {
        let mut inputs = inputs(vec![node(1, 0.0, 0.0), node(2, 0.0, 10.0)]);
        let site = |name: &str| -> SiteName { name.parse().unwrap() };
        let table_of = BTreeMap::from([(site("a"), 0), (site("b"), 0), (site("c"), 1)]);
        let sites = vec![(site("a"), 100), (site("c"), 300), (site("gone"), 900)];
        let member = inputs.members[0].id;
        inputs.demands = vec![DemandInput { member, total_mrps: 1300, prefixes: Vec::new(), sites }];
        let shares = shares_of_tables(&inputs, 2, &table_of);
        let rates = Rates::from([(0, 4000), (1, 3000)]);
        assert_eq!(rates_of(&rates, &shares[0]), Rates::from([(0, 1000), (1, 1999)]));
        assert_eq!(rates_of(&rates, &shares[1]), Rates::from([(0, 3000), (1, 999)]));
    }
}

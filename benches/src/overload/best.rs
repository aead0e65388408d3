//! The best that capacity allows: what the map's choices are held against.
//!
//! Clients of a place are taken as divisible and everything about them as known: the true round-trip
//! times and what each place asks for. Under these, the mean round-trip time cannot be lower than that
//! of the division found here, by whatever way of choosing. It is the transportation problem, solved in
//! the plainest way and apart from the map's own: everybody goes to the nearest, and from replicas
//! beyond their capacity the cheapest chain of moves is taken, again and again.

/// How much of each place goes to each replica.
pub(super) struct Best {
    /// By place, then by replica.
    pub(super) shares: Vec<Vec<f64>>,
}

/// Divides the demand of places among replicas with these capacities; `rtts` by place, then by replica.
pub(super) fn divide(demand: &[f64], rtts: &[Vec<f64>], capacities: &[f64]) -> Best {
    let mut shares: Vec<Vec<f64>> = rtts.iter().map(|row| vec![0.0; row.len()]).collect();
    let mut load = vec![0.0; capacities.len()];
    for (place, row) in rtts.iter().enumerate() {
        let Some(nearest) = (0..row.len()).min_by(|a, b| row[*a].total_cmp(&row[*b])) else { continue };
        shares[place][nearest] = demand[place];
        load[nearest] += demand[place];
    }
    // Less than this is rounding.
    let grain = capacities.iter().sum::<f64>() * 1e-9;
    while let Some(over) = (0..load.len()).find(|at| load[*at] > capacities[*at] + grain) {
        let Some(chain) = cheapest(over, rtts, &shares, &load, capacities, grain) else { break };
        let Some((_, end, _)) = chain.first() else { break };
        let held = chain.iter().map(|(from, _, place)| shares[*place][*from]);
        let amount = held.fold((load[over] - capacities[over]).min(capacities[*end] - load[*end]), f64::min);
        for (from, to, place) in chain {
            shares[place][from] -= amount;
            shares[place][to] += amount;
            load[from] -= amount;
            load[to] += amount;
        }
    }
    Best { shares }
}

/// The cheapest chain of moves (from, to, place) to a replica with room, from its end.
fn cheapest(
    over: usize,
    rtts: &[Vec<f64>],
    shares: &[Vec<f64>],
    load: &[f64],
    capacities: &[f64],
    grain: f64,
) -> Option<Vec<(usize, usize, usize)>> {
    let count = load.len();
    let mut moves = vec![vec![(f64::INFINITY, 0); count]; count];
    for (place, row) in rtts.iter().enumerate() {
        for from in (0..count).filter(|from| shares[place][*from] > grain) {
            for to in (0..count).filter(|to| *to != from) {
                let cost = row[to] - row[from];
                if cost < moves[from][to].0 {
                    moves[from][to] = (cost, place);
                }
            }
        }
    }
    // Bellman and Ford: some moves shorten ways.
    let (mut distance, mut by) = (vec![f64::INFINITY; count], vec![None; count]);
    distance[over] = 0.0;
    for _ in 0..count {
        for from in 0..count {
            for to in 0..count {
                let (cost, place) = moves[from][to];
                if distance[from] + cost < distance[to] - 1e-9 {
                    distance[to] = distance[from] + cost;
                    by[to] = Some((from, to, place));
                }
            }
        }
    }
    let room = (0..count).filter(|at| load[*at] < capacities[*at] - grain && distance[*at].is_finite());
    let end = room.min_by(|a, b| distance[*a].total_cmp(&distance[*b]))?;
    let mut chain = Vec::new();
    let mut step = by[end];
    while let Some((from, to, place)) = step {
        chain.push((from, to, place));
        step = if from == over || chain.len() > count { None } else { by[from] };
    }
    Some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_the_least_to_lose_make_room() {
        // As in the map's own test: the first place goes on to the second replica, the third makes room.
        let rtts = [vec![10.0, 12.0, 90.0], vec![10.0, 80.0, 90.0], vec![90.0, 10.0, 13.0]];
        let best = divide(&[500.0, 500.0, 800.0], &rtts, &[510.0, 850.0, 850.0]);
        let load = |at: usize| best.shares.iter().map(|row| row[at]).sum::<f64>().round();
        assert_eq!([load(0), load(1), load(2)], [510.0, 850.0, 440.0]);
        assert_eq!(best.shares[1][0].round(), 500.0);
    }
}

//! How a set is drawn: where its replicas are, what each can take, and who its clients are.

use super::world::{Client, World};
use super::{Arguments, Asked, Sized, cities};
use crate::matrix::Matrix;
use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::demand::Capacity;
use godwit_core::key::{MemberId, SecretKey};
use godwit_core::name::SiteName;
use godwit_map::{GeoDb, Health, Inputs, MemberInput, SiteInput};
use ipnet::Ipv4Net;
use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The addresses of a city: a /12.
const CITY_BITS: u32 = 20;
/// Those of a network: a block of its own, so that networks explore one by one, as they do where they
/// are spread over all addresses. Its clients are in the first /24.
const NETWORK_BITS: u32 = 12;
/// The first address of the first city.
const FIRST: u32 = 0x1000_0000;
/// Who buys where the demand is has at least this part of the mean everywhere.
const FLOOR: f64 = 0.1;
/// What members can take on average, requests per second, where it follows from demand.
const USUAL_RPS: f64 = 1250.0;

/// What all sets have in common.
pub(super) struct Scene<'a> {
    pub(super) matrix: &'a Matrix,
    pub(super) arguments: &'a Arguments,
    /// What each place asks for beside the others, where that is not drawn.
    people: Option<Vec<f64>>,
}

impl<'a> Scene<'a> {
    pub(super) fn read(matrix: &'a Matrix, arguments: &'a Arguments) -> anyhow::Result<Scene<'a>> {
        let people = match arguments.asked {
            Asked::Uneven => None,
            Asked::People => Some(matrix.population()?),
        };
        Ok(Scene { matrix, arguments, people })
    }
}

impl<'a> World<'a> {
    pub(super) fn draw(
        scene: &'a Scene<'a>,
        count: usize,
        (load, known): (f64, bool),
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<World<'a>> {
        let matrix = scene.matrix;
        let replicas = index::sample(rng, matrix.places.len(), count).into_vec();
        let measured = |place: usize| replicas.iter().all(|replica| matrix.rtt(place, *replica).is_some());
        let cities: Vec<usize> =
            (0..matrix.places.len()).filter(|place| !replicas.contains(place) && measured(*place)).collect();
        let mut clients = clients(scene, &cities, rng);
        let capacities = match scene.arguments.sized {
            // Members have between half and twice of what is usual.
            Sized::Random => replicas.iter().map(|_| rng.random_range(500.0..2000.0f64).round()).collect(),
            Sized::Demand => by_demand(matrix, &replicas, &clients),
        };
        let all = capacities.iter().sum::<f64>() * 1000.0;
        let asked: f64 = clients.iter().map(|client| client.rate).sum();
        clients.iter_mut().for_each(|client| client.rate *= load * all / asked);
        let site: SiteName = "www".parse()?;
        let members: anyhow::Result<Vec<MemberInput>> = replicas
            .iter()
            .zip(&capacities)
            .map(|(place, capacity)| {
                let rps = known.then_some(*capacity as u32);
                member(matrix, &replicas, *place, &site, Capacity { rps, weight_percent: None })
            })
            .collect();
        let geo = GeoDb::from_networks(cities.iter().map(|city| {
            let net = Ipv4Net::new_assert(Ipv4Addr::from(base(*city)), 32 - CITY_BITS as u8);
            (net.into(), matrix.places[*city].coordinates)
        }));
        let inputs = Inputs {
            members: members?,
            sites: vec![SiteInput::published(site.clone(), VersionNumber(1))],
            ..Inputs::new("edge.example.org".parse()?)
        };
        Ok(World {
            scene,
            replicas,
            capacities,
            clients,
            geo,
            inputs,
            site,
            told: BTreeMap::new(),
            observed: BTreeMap::new(),
        })
    }
}

/// The networks of these cities, with what each asks for beside all others.
fn clients(scene: &Scene<'_>, cities: &[usize], rng: &mut ChaCha8Rng) -> Vec<Client> {
    let mean = |people: &[f64]| cities.iter().map(|city| people[*city]).sum::<f64>() / cities.len() as f64;
    let mean = scene.people.as_deref().map_or(1.0, mean);
    let mut clients = Vec::new();
    for city in cities {
        let size = match &scene.people {
            Some(people) => people[*city] / mean,
            None => cities::size(rng),
        };
        for (rate, at) in cities::networks(size, scene.arguments.networks, rng).into_iter().zip(0..) {
            let network = Ipv4Addr::from(base(*city) + (at << NETWORK_BITS));
            let prefix = Ipv4Net::new_assert(network, 24).into();
            clients.push(Client { city: *city, prefix, rate });
        }
    }
    clients
}

/// What an operator buys who buys where the demand is: each member has a part of all capacity as those ask
/// for a part of everything whom it serves best, and no less than a [`FLOOR`].
fn by_demand(matrix: &Matrix, replicas: &[usize], clients: &[Client]) -> Vec<f64> {
    let mut demand = vec![0.0; replicas.len()];
    for client in clients {
        let rtt = |at: usize| matrix.rtt(client.city, replicas[at]).unwrap_or(f64::MAX);
        let best = (0..replicas.len()).min_by(|a, b| rtt(*a).total_cmp(&rtt(*b)));
        best.into_iter().for_each(|best| demand[best] += client.rate);
    }
    let mean = demand.iter().sum::<f64>() / demand.len() as f64;
    demand.iter_mut().for_each(|demand| *demand = demand.max(FLOOR * mean));
    let sum: f64 = demand.iter().sum();
    let usual = USUAL_RPS * replicas.len() as f64 / sum;
    demand.into_iter().map(|demand| (demand * usual).round()).collect()
}

/// The first address of a city.
fn base(city: usize) -> u32 {
    FIRST + ((city as u32) << CITY_BITS)
}

fn member(
    matrix: &Matrix,
    replicas: &[usize],
    place: usize,
    site: &SiteName,
    capacity: Capacity,
) -> anyhow::Result<MemberInput> {
    let others = replicas.iter().filter(|other| **other != place);
    let micros = |ms: f64| (ms * 1000.0).round() as u32;
    let peer_rtts =
        others.filter_map(|other| Some((id(*other), micros(matrix.rtt(place, *other)?)))).collect();
    Ok(MemberInput {
        id: id(place),
        serial: Serial(place as u64),
        name: format!("n{place}").parse()?,
        region: format!("r{place}").parse()?,
        place: Some(matrix.places[place].coordinates),
        roles: vec![Role::Node],
        state: Health::Alive,
        draining: false,
        ready: true,
        load_permille: 0,
        capacity,
        public_v4: Some(Ipv4Addr::from(0xc612_0000 + place as u32)),
        public_v6: None,
        http_port: Some(80),
        held: vec![(site.clone(), VersionNumber(1))],
        peer_rtts,
        certified: true,
        checks: Vec::new(),
    })
}

fn id(place: usize) -> MemberId {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(place as u64).to_le_bytes());
    SecretKey::from_seed(&seed).public()
}

//! Home addresses in a generation.

use super::{Generation, Ranking};
use crate::decisions::Because;
use crate::eligible::{Eligible, Wanted, eligible, exclusion};
use crate::homes::{self, HomeInput, HomeRanks};
use crate::inputs::{Hosting, SiteInput};
use crate::locality::{Locality, client_prefix};
use crate::told::{Picks, Told};
use crate::why::{self, Why};
use godwit_core::content::VersionNumber;
use godwit_core::name::SiteName;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The name of a home address.
pub(super) struct HomeName {
    input: HomeInput,
    /// Its nodes, as something to serve.
    hosting: Hosting,
    eligible: Eligible,
    ranks: Arc<HomeRanks>,
}

impl HomeName {
    fn wanted(&self) -> Wanted<'_> {
        wanted_home(&self.input, &self.hosting)
    }
}

/// Who may serve a home address, and who was ruled out, in classes.
type Nodes = (Vec<u32>, Vec<Vec<u32>>);

fn wanted_home<'a>(input: &'a HomeInput, hosting: &'a Hosting) -> Wanted<'a> {
    Wanted { site: Some(&input.name), number: VersionNumber(input.number), hosting }
}

impl Generation {
    /// Ranks the nodes of every home address. Where nothing has changed, the ranks are the very ones
    /// of before, so that home agents see that.
    pub(super) fn rank_homes(&self, previous: Option<&Generation>) -> Vec<HomeName> {
        // Those with the same nodes share their ranks.
        let mut distinct: BTreeMap<Nodes, Arc<HomeRanks>> = BTreeMap::new();
        let mut rank = |input: &HomeInput| {
            let hosting = Hosting::Home(input.service.clone());
            let wanted = wanted_home(input, &hosting);
            let eligible = eligible(&self.inputs, wanted, &self.full);
            let others =
                (0..).zip(&self.inputs.members).filter(|(index, _)| !eligible.members.contains(index));
            let ruled_out = homes::ruled_out(others.filter_map(|(index, member)| {
                Some((index, exclusion(member, wanted, self.full[index as usize])?))
            }));
            let ranks = distinct.entry((eligible.members.clone(), ruled_out)).or_insert_with_key(|nodes| {
                let (knowledge, division) = (&self.knowledge, &self.division);
                let ranks = HomeRanks::compile(&self.inputs, knowledge, division, &nodes.0, &nodes.1);
                let before = previous.and_then(|previous| previous.find_home(input.name.as_str()));
                let kept = before.filter(|before| *before.ranks == ranks);
                kept.map_or_else(|| Arc::new(ranks), |before| before.ranks.clone())
            });
            let ranks = ranks.clone();
            HomeName { input: input.clone(), hosting, eligible, ranks }
        };
        self.inputs.homes.iter().filter(|home| home.is_granted()).map(&mut rank).collect()
    }

    /// The home addresses, by name.
    pub fn homes(&self) -> impl Iterator<Item = &HomeInput> {
        self.homes.iter().map(|home| &home.input)
    }

    /// The home address of this name (lower case).
    pub fn home(&self, name: &str) -> Option<&HomeInput> {
        self.find_home(name).map(|home| &home.input)
    }

    /// For every client, the nodes that serve the home address of this name (lower case).
    pub fn home_ranks(&self, name: &str) -> Option<&Arc<HomeRanks>> {
        self.find_home(name).map(|home| &home.ranks)
    }

    fn find_home(&self, name: &str) -> Option<&HomeName> {
        let at = self.homes.binary_search_by(|home| home.input.name.as_str().cmp(name)).ok()?;
        self.homes.get(at)
    }

    /// Why packets of `client` to the home address of this name go where they do: the nodes in the
    /// order of their classes, those of the first as told, and every reason. Which of the first class
    /// it is depends on which are bound, too.
    pub fn why_home(&self, client: IpAddr, name: &SiteName) -> Option<Why> {
        let home = self.find_home(name.as_str())?;
        let (locality, known) = self.knowledge.locate(client);
        let members = &home.eligible.members;
        let order = self.knowledge.order(&self.inputs, members, locality, &known);
        let classes = homes::classes_at(&self.inputs, &self.knowledge, &self.division, members, locality);
        let told =
            Told { v4: Picks::listed(classes.first().map_or(&[], Vec::as_slice)), v6: Picks::default() };
        let site = SiteInput {
            site: name.clone(),
            number: VersionNumber(home.input.number),
            hosting: home.hosting.clone(),
        };
        let ranked = classes.iter().flatten();
        let ranked = ranked.filter_map(|member| order.iter().find(|candidate| candidate.member == *member));
        let replicas = ranked.map(|candidate| self.ranked(&site, candidate, told)).collect();
        let blind = order.iter().all(|candidate| candidate.estimate.rtt_us.is_none());
        let (ordered_as, because) = match locality {
            Locality::Rule(_) => (locality, Because::Rule),
            _ if blind => (Locality::Unknown(client_prefix(client)), Because::Hash),
            _ => (locality, Because::Nearest),
        };
        let excluded = (0..).zip(&self.inputs.members).filter(|(index, _)| !members.contains(index));
        let excluded = excluded
            .map(|(index, member)| (member, exclusion(member, home.wanted(), self.full[index as usize])));
        // A name has one home address for everybody.
        let ranking = Ranking { tier: home.eligible.tier, replicas, scope: 0 };
        let mut why = why::explain(why::Facts {
            locality: ordered_as,
            spared: &home.eligible.spared,
            excluded: excluded.collect(),
            ..self.facts(client, &site, because, ranking)
        });
        why.home = home.input.addresses().collect();
        Some(why)
    }
}

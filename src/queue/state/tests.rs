//! The rules against a world made of random numbers: clients that put, take, lease, stall, lie and die at any moment.

use super::*;
use crate::queue::item::want;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Items that fit into a simulated ring.
const RING: usize = 6;

#[derive(Debug, Clone, Copy)]
enum Frame {
    Put(u64, u32),
    Leased(u32),
    Done(u32),
    Back(u32),
    TaskDone,
}

/// A client with its lane, as it would be.
#[derive(Debug, Default)]
struct Client {
    ring: VecDeque<(u64, u64)>,
    next: u32,
    written: u64,
    room: u32,
    frames: Vec<Frame>,
    hands: BTreeMap<u32, u64>,
    leases: BTreeMap<u32, u64>,
    /// Got and not reported done.
    undone: u64,
    wants: u32,
    needs: u32,
    /// It has been told that it has room, and will look: if that is gone by then, it asks again.
    told: bool,
    asks: BTreeSet<u32>,
    /// What it took, in order.
    taken: Vec<u64>,
}

#[derive(Default)]
struct World {
    clients: BTreeMap<ClientId, Client>,
    woken: bool,
    overs: Vec<ClientId>,
}

impl Lanes for World {
    fn deliver(&mut self, to: ClientId, item: &mut Item) -> Option<u64> {
        let client = self.clients.get_mut(&to)?;
        if client.ring.len() >= RING {
            return None;
        }
        let start = client.written;
        client.written += 1;
        client.ring.push_back((start, id_of(item)));
        Some(start)
    }

    fn take_back(&mut self, from: ClientId, count: u32) -> u32 {
        let Some(client) = self.clients.get_mut(&from) else { return 0 };
        let back = client.ring.len().min(count as usize);
        client.ring.truncate(client.ring.len() - back);
        u32::try_from(back).unwrap()
    }

    fn rewind(&mut self, of: ClientId, start: u64) {
        let client = self.clients.get_mut(&of).unwrap();
        assert!(client.ring.back().is_none_or(|(last, _)| last + 1 == start));
        client.written = start;
    }

    fn grant(&mut self, to: ClientId, units: u32) {
        let client = self.clients.get_mut(&to).unwrap();
        client.told = true;
        // Who lies about it may have any.
        client.room = client.room.wrapping_add(units);
    }

    fn revoke(&mut self, from: ClientId) -> u32 {
        self.clients.get_mut(&from).map_or(0, |client| std::mem::take(&mut client.room))
    }

    fn wants(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|client| client.wants != 0)
    }

    fn answer(&mut self, to: ClientId, id: u32, value: u64) {
        let client = self.clients.get_mut(&to).unwrap();
        if id == 0 {
            client.wants = if value == want::GIVEN { 3 } else { 0 };
            if value == want::OVER {
                self.overs.push(to);
            }
        } else {
            assert!(client.asks.remove(&id), "an answer to nothing");
        }
    }

    fn wake(&mut self, _: ClientId) {}

    fn wake_local(&mut self) {
        self.woken = true;
    }
}

fn item(id: u64, units: u32) -> Item {
    Item::new(id.to_le_bytes().to_vec(), Vec::new(), units)
}

fn id_of(item: &Item) -> u64 {
    u64::from_le_bytes(item.light().try_into().unwrap())
}

/// Everything, and what must come of it.
struct Play {
    state: State,
    world: World,
    names: Vec<ClientId>,
    puts: u64,
    units: BTreeMap<u64, u32>,
    arrived: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    local_leases: Vec<Item>,
    local_undone: u64,
    /// Has anything come back from a death or a lease? Then a queue may hold more than its capacity for a while.
    returned: bool,
    asks: u32,
    waits: [isize; 3],
}

impl Play {
    fn new(capacity: Option<u64>) -> Self {
        Self {
            state: State::new(capacity),
            world: World::default(),
            names: Vec::new(),
            puts: 0,
            units: BTreeMap::new(),
            arrived: BTreeSet::new(),
            gone: BTreeSet::new(),
            local_leases: Vec::new(),
            local_undone: 0,
            returned: false,
            asks: 0,
            waits: [0; 3],
        }
    }

    fn fresh(&mut self, units: u32) -> u64 {
        self.puts += 1;
        self.units.insert(self.puts, units);
        self.puts
    }

    fn pump(&mut self, name: ClientId) {
        let Some(client) = self.world.clients.get_mut(&name) else { return };
        let hands: Vec<u32> = client.hands.keys().copied().collect();
        let before = client.next;
        self.state.taken(name, client.next).unwrap();
        for frame in std::mem::take(&mut client.frames) {
            match frame {
                Frame::Put(id, units) => {
                    self.state.arrived(name, item(id, units)).unwrap();
                    self.arrived.insert(id);
                }
                Frame::Leased(number) => self.state.leased(name, number).unwrap(),
                Frame::Done(number) => self.state.lease_ended(name, number, true).unwrap(),
                Frame::Back(number) => self.state.lease_ended(name, number, false).unwrap(),
                Frame::TaskDone => assert!(self.state.task_done(Some(name))),
            }
        }
        self.state.settle(name, &hands, before);
        let needs = if client.room < client.needs { client.needs } else { 0 };
        self.state.need(name, needs).unwrap();
    }

    fn pump_all(&mut self) {
        for name in self.names.clone() {
            self.pump(name);
        }
    }

    fn attend(&mut self) {
        for (name, client) in &self.world.clients {
            self.state.want(
                *name,
                match client.wants {
                    1 => Some(false),
                    2 => Some(true),
                    _ => None,
                },
            );
        }
        self.state.serve(&mut self.world);
    }

    /// As the host's shell does after every event; then nobody waits in vain.
    fn settle(&mut self) {
        self.world.woken = false;
        self.state.look_anew();
        self.pump_all();
        self.attend();
        self.pump_all();
        self.attend();
        self.check();
        self.check_overs();
        let rich = |client: &Client| client.ring.len() > usize::from(client.wants != 0);
        let spare = !self.state.queue.is_empty() || self.world.clients.values().any(rich);
        if spare && self.waits[0] > 0 {
            assert!(self.world.woken, "a getter of this process sleeps");
        }
        if self.waits[0] == 0 {
            for client in self.world.clients.values() {
                let sleeps = matches!(client.wants, 1 | 2) && client.ring.is_empty();
                assert!(!(sleeps && spare), "a getter sleeps, and there are items");
            }
        }
        if self.state.unfinished == 0 {
            assert!(self.world.clients.values().all(|client| client.asks.is_empty()), "a join sleeps");
            assert!(self.waits[2] == 0 || self.world.woken);
        }
        let free = self.state.free();
        for (name, client) in &self.world.clients {
            let starves =
                !client.told && client.needs > client.room && !self.state.closed && self.waits[1] == 0;
            let first = self.state.starved.front() == Some(name);
            assert!(
                !(starves && first && free.is_none_or(|free| free >= client.needs.into())),
                "room unused"
            );
            assert!(!starves || self.state.starved.contains(name), "a need forgotten");
        }
        if self.waits[1] > 0 && free.is_some_and(|free| free > 0) {
            assert!(self.world.woken, "a putter of this process sleeps");
        }
    }

    fn check_overs(&mut self) {
        for name in std::mem::take(&mut self.world.overs) {
            let others = |(other, client): (&ClientId, &Client)| {
                client.leases.is_empty()
                    && (*other == name || client.hands.is_empty() && client.ring.is_empty())
                    && !client.frames.iter().any(|frame| matches!(frame, Frame::Put(..)))
            };
            assert!(self.state.queue.is_empty() && self.local_leases.is_empty());
            assert!(self.world.clients.iter().all(others), "not over at all");
            assert!(self.state.closed || self.world.clients.len() == 1 && !self.state.local);
        }
    }

    /// What holds at any moment.
    fn check(&self) {
        let state = &self.state;
        let mut seen = BTreeSet::new();
        let mut count = |item: &Item| assert!(seen.insert(id_of(item)), "an item twice");
        let mut used = 0;
        state.queue.iter().for_each(&mut count);
        used += state.queue.iter().map(|item| u64::from(item.units)).sum::<u64>();
        let mut kept = state.queue.len() as u64;
        for member in state.members.values() {
            member.given.iter().for_each(|given| count(&given.item));
            used += member.given.iter().map(|given| u64::from(given.item.units)).sum::<u64>();
            member.in_hand.values().chain(member.leased.values()).for_each(&mut count);
            kept += (member.given.len() + member.in_hand.len() + member.leased.len()) as u64;
        }
        self.local_leases.iter().for_each(&mut count);
        kept += self.local_leases.len() as u64;
        assert_eq!(used, state.used);
        assert_eq!(kept, state.kept());
        // Done with, and not seen to be: still in a member's hand for us.
        assert!(seen.is_subset(&self.arrived));
        for id in self.arrived.difference(&seen) {
            assert!(self.gone.contains(id), "item {id} is lost");
        }
        let credit: u64 = state.members.values().map(|member| u64::from(member.credit)).sum();
        for (name, client) in &self.world.clients {
            let on_the_way: u32 = client
                .frames
                .iter()
                .map(|frame| if let Frame::Put(_, units) = frame { *units } else { 0 })
                .sum();
            assert_eq!(state.members[*name].credit, client.room + on_the_way, "credit that nobody has");
        }
        if let (Some(capacity), false) = (state.capacity, self.returned) {
            assert!(used + credit <= capacity, "{used} + {credit} > {capacity}");
        }
    }

    /// What holds when everything has been read.
    fn check_counts(&mut self) {
        self.pump_all();
        let rings: usize = self.world.clients.values().map(|client| client.ring.len()).sum();
        assert_eq!(self.state.len(), self.state.queue.len() + rings);
        let undone: u64 = self.world.clients.values().map(|client| client.undone).sum();
        assert_eq!(self.state.unfinished(), self.state.kept() + undone + self.local_undone);
    }

    fn client(&mut self, pick: usize) -> Option<(ClientId, &mut Client)> {
        let name = *self.names.get(pick % self.names.len().max(1))?;
        Some((name, self.world.clients.get_mut(&name)?))
    }

    fn die(&mut self, pick: usize) {
        let Some((name, _)) = self.client(pick) else { return };
        self.pump(name);
        self.state.leave(name);
        let client = self.world.clients.remove(&name).unwrap();
        self.returned |= !(client.hands.is_empty() && client.leases.is_empty());
        // What it had in hand is back.
        for id in client.hands.values() {
            self.gone.remove(id);
        }
        self.names.retain(|other| *other != name);
    }

    fn step(&mut self, what: u8, pick: usize, number: u32) {
        let small = self
            .state
            .capacity
            .map_or(number % 5 + 1, |capacity| number % u32::try_from(capacity).unwrap() + 1);
        match what {
            0 if self.names.len() < 5 => {
                let name = self.state.enter();
                self.names.push(name);
                self.world.clients.insert(name, Client::default());
            }
            1..=3 => {
                let id = self.fresh(small);
                let Some((_, client)) = self.client(pick) else { return };
                if client.room >= small {
                    client.room -= small;
                    client.needs = 0;
                    client.frames.push(Frame::Put(id, small));
                } else {
                    client.needs = small;
                    client.told = false;
                }
            }
            4..=6 => {
                let Some((_, client)) = self.client(pick) else { return };
                if let Some((_, id)) = client.ring.pop_front() {
                    client.hands.insert(client.next, id);
                    client.next = client.next.wrapping_add(1);
                    client.wants = 0;
                    client.taken.push(id);
                } else {
                    client.wants = 1 + number % 2;
                }
            }
            7..=9 => {
                let Some((_, client)) = self.client(pick) else { return };
                let Some((hand, id)) = client.hands.pop_first() else { return };
                if number.is_multiple_of(3) {
                    client.leases.insert(hand, id);
                    client.frames.push(Frame::Leased(hand));
                } else {
                    client.undone += 1;
                    self.gone.insert(id);
                }
            }
            10 => {
                let Some((_, client)) = self.client(pick) else { return };
                let Some((hand, id)) = client.leases.pop_first() else { return };
                if number.is_multiple_of(2) {
                    client.frames.push(Frame::Done(hand));
                    self.gone.insert(id);
                } else {
                    client.frames.push(Frame::Back(hand));
                    self.returned = true;
                }
            }
            11 => {
                let Some((_, client)) = self.client(pick) else { return };
                if client.undone > 0 {
                    client.undone -= 1;
                    client.frames.push(Frame::TaskDone);
                }
            }
            12 => {
                let id = self.asks + 1;
                let Some((name, client)) = self.client(pick) else { return };
                client.asks.insert(id);
                self.state.join(name, id).unwrap();
                self.asks = id;
            }
            13 => {
                let Some((name, client)) = self.client(pick) else { return };
                let Some(id) = client.asks.pop_first() else { return };
                assert!(self.state.withdraw(name, id) && !self.state.withdraw(name, id));
            }
            14 if number.is_multiple_of(4) => self.die(pick),
            15 if !self.state.closed => {
                let id = self.fresh(small);
                if self.state.put(item(id, small)).is_ok() {
                    self.arrived.insert(id);
                }
            }
            16 => {
                if let Some(item) = self.state.pop(&mut self.world) {
                    if number.is_multiple_of(3) {
                        self.state.lease_here();
                        self.local_leases.push(item);
                    } else {
                        self.gone.insert(id_of(&item));
                        self.local_undone += 1;
                    }
                }
            }
            17 => {
                if let Some(item) = self.local_leases.pop() {
                    if number.is_multiple_of(2) {
                        self.returned = true;
                        self.state.lease_here_ended(Some(item));
                    } else {
                        self.gone.insert(id_of(&item));
                        self.state.lease_here_ended(None);
                        assert!(self.state.task_done(None));
                    }
                } else if self.local_undone > 0 {
                    self.local_undone -= 1;
                    assert!(self.state.task_done(None));
                }
            }
            18 => {
                let which = pick % 3;
                let by = if self.waits[which] > 0 && number.is_multiple_of(2) { -1 } else { 1 };
                self.waits[which] += by;
                let mut all = [0; 3];
                all[which] = by;
                self.state.wait_locally(all[0], all[1], all[2]);
            }
            19 if number.is_multiple_of(16) => self.state.close(&mut self.world),
            20 => {
                if let Some((name, _)) = self.client(pick) {
                    self.pump(name);
                    if number.is_multiple_of(2) {
                        self.state.try_want(name, &mut self.world);
                    }
                }
            }
            21 if number.is_multiple_of(8) && self.waits == [0; 3] => self.state.abandon(),
            _ => self.settle(),
        }
        self.check();
    }
}

fn steps() -> impl Strategy<Value = Vec<(u8, usize, u32)>> {
    prop::collection::vec((0..28_u8, 0..5_usize, 0..1000_u32), 1..200)
}

fn capacity() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(1..12_u64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// No item lost or doubled, no room lost or invented, every count exact, and nobody sleeps who could go on.
    #[test]
    fn whoever_does_what_and_dies_when(capacity in capacity(), steps in steps()) {
        let mut play = Play::new(capacity);
        for (what, pick, number) in steps {
            play.step(what, pick, number);
        }
        play.settle();
        play.check_counts();
        // All die: what they had is back, what they did is done.
        while !play.names.is_empty() {
            play.die(0);
            play.check();
        }
        play.check_counts();
        let left: BTreeSet<u64> = play.state.queue.iter().chain(&play.local_leases).map(id_of).collect();
        let due: BTreeSet<u64> = play.arrived.difference(&play.gone).copied().collect();
        prop_assert_eq!(left, due);
        prop_assert!(play.state.waiting.is_empty() && play.state.starved.is_empty());
    }

    /// One consumer, nobody dies: the queue's order is the order in which things came.
    #[test]
    fn one_consumer_sees_the_order(capacity in capacity(), steps in prop::collection::vec((0..9_u8, 0..3_usize, 0..1000_u32), 1..200)) {
        let mut play = Play::new(capacity);
        let mut producers = BTreeMap::new();
        (0..3).for_each(|_| play.step(0, 0, 0));
        for (what, pick, number) in steps {
            match what {
                0..=3 => {
                    play.step(1, pick, number);
                    producers.insert(play.puts, pick);
                }
                4..=6 => play.step(4, 0, number),
                7 => play.step(7, 0, 1),
                _ => play.settle(),
            }
        }
        let taken = &play.world.clients[&play.names[0]].taken;
        for producer in 0..3 {
            let own = taken.iter().filter(|id| producers.get(*id) == Some(&producer));
            prop_assert!(own.is_sorted());
        }
        prop_assert!(taken.iter().collect::<BTreeSet<_>>().len() == taken.len());
    }

    /// What makes no sense is told, and nothing panics, whatever a client says.
    #[test]
    fn nonsense_is_told(capacity in prop::option::of(any::<u64>()), events in prop::collection::vec((0..14_u8, any::<u32>(), any::<u32>(), any::<bool>()), 1..100)) {
        let mut state = State::new(capacity);
        let mut world = World::default();
        let names: Vec<_> = (0..2).map(|_| state.enter()).collect();
        for name in &names {
            world.clients.insert(*name, Client::default());
        }
        for (what, one, two, yes) in events {
            let name = names[usize::from(yes)];
            match what {
                0 => prop_assert!(state.taken(name, one).is_err() || !state.members[name].in_hand.is_empty() || one == state.members[name].first),
                1 => drop(state.settle(name, &[one, two], two)),
                2 => {
                    let credit = state.members[name].credit;
                    prop_assert_eq!(state.arrived(name, item(1, one)).is_ok(), credit >= one);
                    let room = &mut world.clients.get_mut(&name).unwrap().room;
                    *room = room.saturating_sub(one);
                }
                3 => drop(state.refused(name, one)),
                4 => drop(state.leased(name, one % 4)),
                5 => drop(state.lease_ended(name, one % 4, two % 2 == 0)),
                6 => drop(state.task_done(Some(name))),
                7 => state.want(name, (one % 2 == 0).then_some(yes)),
                8 => {
                    let told = state.need(name, one);
                    prop_assert_eq!(told.is_err(), capacity.is_some_and(|capacity| capacity < one.into()));
                }
                9 => drop(state.give_up_need(name)),
                10 => drop(state.withdraw(name, one)),
                11 => {
                    let next = state.members[name].first.wrapping_add(one % 3);
                    let _ = state.taken(name, next);
                }
                12 => drop(state.try_want(name, &mut world)),
                _ => {
                    // It says that it has more, or less, room than it was given.
                    world.clients.get_mut(&name).unwrap().room = one;
                    world.clients.get_mut(&name).unwrap().room /= 2;
                    state.serve(&mut world);
                }
            }
        }
        names.into_iter().for_each(|name| state.leave(name));
        prop_assert!(state.members.is_empty());
    }
}

//! One node: its swarm, and what its events mean to the commands that wait for them.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    core::ConnectedPoint,
    identify,
    identity::Keypair,
    kad::{self, store::MemoryStore, store::MemoryStoreConfig},
    noise, ping,
    swarm::{ConnectionId, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp, tls, yamux,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{
    names,
    protocol::{Arguments, Reply},
    streams::HeldStreams,
};

pub const KAD: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");

const QUERY_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection without streams stays: tests look at it after its last request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// The library's own bound is 1,024, which a load test passes at once.
const MAX_STORED_KEYS: usize = 1 << 22;

pub struct NodeOptions {
    pub listen: Vec<Multiaddr>,
    pub bootstrap: Vec<String>,
    pub mode: String,
    pub seed: Option<String>,
    pub security: String,
    pub refresh: bool,
    /// Whether the nodes of this process do not join each other.
    pub apart: bool,
}

impl Default for NodeOptions {
    fn default() -> Self {
        NodeOptions {
            listen: vec![],
            bootstrap: vec![],
            mode: "server".into(),
            seed: None,
            security: "noise,tls".into(),
            refresh: true,
            apart: false,
        }
    }
}

/// A command on its way to a node.
pub struct Order {
    pub command: String,
    pub args: Arguments,
    pub reply: Reply,
}

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub streams: libp2p_stream::Behaviour,
}

/// What a query of the library was started for.
pub enum Wanted {
    ClosestPeers,
    Peer(PeerId),
    Providers {
        count: usize,
        found: BTreeSet<PeerId>,
    },
    Value,
    /// What the IPNS name stands for.
    Path(PeerId),
    /// As they come, with the seconds since then.
    Values {
        began: Instant,
        found: Vec<Value>,
    },
    Done,
}

pub struct Node {
    pub swarm: Swarm<Behaviour>,
    pub key: Keypair,
    pub security: String,
    pub queries: HashMap<kad::QueryId, (Wanted, Reply)>,
    pub dials: HashMap<ConnectionId, Reply>,
    pub partings: HashMap<PeerId, Reply>,
    pub identified: HashMap<PeerId, identify::Info>,
    pub connections: HashMap<ConnectionId, (PeerId, ConnectedPoint)>,
    /// Why the library's own ping of a peer failed, until one succeeds.
    pub failed_pings: HashMap<PeerId, String>,
    pub held: HeldStreams,
    /// Peers to start a bootstrap lookup through as soon as they are identified.
    joining: BTreeSet<PeerId>,
}

impl Node {
    pub fn start(options: &NodeOptions, index: usize) -> Result<Node, Box<dyn Error>> {
        let key = match &options.seed {
            Some(seed) => {
                let text = format!("codio-dht interop rust {seed} {index}");
                Keypair::ed25519_from_bytes(Sha256::digest(text.as_bytes()))?
            }
            None => Keypair::generate_ed25519(),
        };
        Ok(Node {
            swarm: new_swarm(key.clone(), options)?,
            key,
            security: options.security.clone(),
            queries: HashMap::new(),
            dials: HashMap::new(),
            partings: HashMap::new(),
            identified: HashMap::new(),
            connections: HashMap::new(),
            failed_pings: HashMap::new(),
            held: HeldStreams::default(),
            joining: BTreeSet::new(),
        })
    }

    pub fn peer_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Listens, and returns where, each address with `/p2p` and the node's id.
    pub async fn listen(&mut self, on: &[Multiaddr]) -> Result<Vec<String>, Box<dyn Error>> {
        let mut listeners = vec![];
        for addr in on {
            listeners.push(self.swarm.listen_on(addr.clone())?);
        }
        let mut addrs = vec![None; listeners.len()];
        while addrs.iter().any(Option::is_none) {
            match self.swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    // Provider records name external addresses only; nobody here confirms any.
                    self.swarm.add_external_address(address.clone());
                    if let Some(place) = listeners.iter().position(|id| *id == listener_id) {
                        addrs[place] = Some(format!("{address}/p2p/{}", self.peer_id()));
                    }
                }
                SwarmEvent::ListenerError { error, .. } => return Err(error.into()),
                SwarmEvent::ListenerClosed { reason, .. } => reason?,
                _ => {}
            }
        }
        Ok(addrs.into_iter().flatten().collect())
    }

    pub fn join(&mut self, through: &[String]) {
        for addr in through {
            let dialled = addr.parse::<Multiaddr>().map_err(|e| e.to_string()).and_then(|addr| {
                let how = DialOpts::from(addr);
                self.joining.extend(how.get_peer_id());
                self.swarm.dial(how).map_err(|e| e.to_string())
            });
            if let Err(why) = dialled {
                eprintln!("bootstrap {addr}: {why}");
            }
        }
    }

    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.execute(order),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, peer_id, endpoint, .. } => {
                self.connections.insert(connection_id, (peer_id, endpoint));
                if let Some(reply) = self.dials.remove(&connection_id) {
                    let _ = reply.send(Ok(json!({})));
                }
            }
            SwarmEvent::ConnectionClosed {
                connection_id, peer_id, cause, num_established, ..
            } => {
                self.connections.remove(&connection_id);
                match self.partings.remove(&peer_id) {
                    Some(reply) if num_established == 0 => drop(reply.send(Ok(json!({})))),
                    Some(reply) => drop(self.partings.insert(peer_id, reply)),
                    None => eprintln!("connection to {peer_id} closed: {cause:?}"),
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                match self.dials.remove(&connection_id) {
                    Some(reply) => drop(reply.send(Err(error.to_string()))),
                    None => eprintln!("dial: {error}"),
                }
            }
            SwarmEvent::IncomingConnectionError { error, .. } => eprintln!("inbound: {error}"),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identify(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => match event.result {
                Ok(_) => drop(self.failed_pings.remove(&event.peer)),
                Err(why) => drop(self.failed_pings.insert(event.peer, why.to_string())),
            },
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result,
                step,
                ..
            })) => self.on_progress(id, result, step.last),
            _ => {}
        }
    }

    fn on_identify(&mut self, event: identify::Event) {
        match event {
            identify::Event::Received { peer_id, info, .. } => {
                let kad = &mut self.swarm.behaviour_mut().kad;
                // The library leaves this to the program: nobody enters the table without it.
                if info.protocols.contains(&KAD) {
                    for addr in &info.listen_addrs {
                        kad.add_address(&peer_id, addr.clone());
                    }
                    if self.joining.remove(&peer_id) {
                        let _ = kad.bootstrap();
                    }
                }
                self.identified.insert(peer_id, info);
            }
            identify::Event::Error { peer_id, error, .. } => {
                eprintln!("identify of {peer_id}: {error}");
            }
            _ => {}
        }
    }

    /// A step of a query that a command waits for; its outcome, once it has one, is the answer.
    fn on_progress(&mut self, id: kad::QueryId, result: kad::QueryResult, last: bool) {
        use kad::QueryResult::*;
        let Some((wanted, _)) = self.queries.get_mut(&id) else { return };
        let outcome = match (result, wanted) {
            (GetClosestPeers(Ok(found)), Wanted::ClosestPeers) => {
                Some(Ok(id_texts(found.peers.iter().map(|peer| &peer.peer_id))))
            }
            (GetClosestPeers(Ok(found)), Wanted::Peer(target)) => {
                Some(match found.peers.iter().find(|peer| peer.peer_id == *target) {
                    Some(peer) => Ok(describe(&peer.peer_id, &peer.addrs)),
                    None => Err("not found".into()),
                })
            }
            (GetClosestPeers(Err(why)), _) => Some(Err(why.to_string())),
            (GetProviders(step), Wanted::Providers { count, found }) => {
                if let Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) = step {
                    found.extend(providers);
                }
                let enough = *count > 0 && found.len() >= *count;
                (last || enough).then(|| {
                    // The library keeps the addresses of providers to itself.
                    let all = found.iter().map(|peer| match self.identified.get(peer) {
                        Some(info) => describe(peer, &info.listen_addrs),
                        None => describe(peer, &[]),
                    });
                    Ok(json!({"providers": all.collect::<Vec<_>>()}))
                })
            }
            (GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))), Wanted::Value) => {
                Some(Ok(json!({"value_hex": hex::encode(found.record.value)})))
            }
            (GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))), Wanted::Path(name)) => {
                Some(names::path_of(name, &found.record.value).map(|path| json!({"path": path})))
            }
            (GetRecord(step), Wanted::Values { began, found }) => {
                if let Ok(kad::GetRecordOk::FoundRecord(one)) = step {
                    let value_hex = hex::encode(one.record.value);
                    found.push(json!({"value_hex": value_hex, "s": began.elapsed().as_secs_f64()}));
                }
                last.then(|| Ok(json!({"values": found})))
            }
            (GetRecord(Err(why)), _) => Some(Err(why.to_string())),
            (StartProviding(Err(why)), _) => Some(Err(why.to_string())),
            (PutRecord(Err(why)), _) => Some(Err(why.to_string())),
            (Bootstrap(Err(why)), _) => Some(Err(why.to_string())),
            (_, Wanted::Done) => last.then(|| Ok(json!({}))),
            _ => last.then(|| Err("ended without a result".into())),
        };
        if let Some(outcome) = outcome {
            if let Some((_, reply)) = self.queries.remove(&id) {
                let _ = reply.send(outcome);
            }
            if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
                query.finish();
            }
        }
    }
}

fn new_swarm(key: Keypair, options: &NodeOptions) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let builder = SwarmBuilder::with_existing_identity(key).with_tokio();
    let tcp = tcp::Config::default().nodelay(true);
    let behaviour = |key: &Keypair| new_behaviour(key, options);
    let settings =
        |config: libp2p::swarm::Config| config.with_idle_connection_timeout(IDLE_TIMEOUT);
    // Each choice of securities has a type of its own, up to the behaviour.
    Ok(match options.security.as_str() {
        "noise" => builder
            .with_tcp(tcp, noise::Config::new, yamux::Config::default)?
            .with_quic()
            .with_behaviour(behaviour)?
            .with_swarm_config(settings)
            .build(),
        "tls" => builder
            .with_tcp(tcp, tls::Config::new, yamux::Config::default)?
            .with_quic()
            .with_behaviour(behaviour)?
            .with_swarm_config(settings)
            .build(),
        "noise,tls" => builder
            .with_tcp(tcp, (noise::Config::new, tls::Config::new), yamux::Config::default)?
            .with_quic()
            .with_behaviour(behaviour)?
            .with_swarm_config(settings)
            .build(),
        "tls,noise" => builder
            .with_tcp(tcp, (tls::Config::new, noise::Config::new), yamux::Config::default)?
            .with_quic()
            .with_behaviour(behaviour)?
            .with_swarm_config(settings)
            .build(),
        other => return Err(format!("--security {other}: noise and tls are known").into()),
    })
}

fn new_behaviour(key: &Keypair, options: &NodeOptions) -> Behaviour {
    let me = key.public().to_peer_id();
    let store = MemoryStore::with_config(
        me,
        MemoryStoreConfig {
            max_records: MAX_STORED_KEYS,
            max_provided_keys: MAX_STORED_KEYS,
            ..Default::default()
        },
    );
    let mut config = kad::Config::new(KAD);
    config.set_query_timeout(QUERY_TIMEOUT);
    if !options.refresh {
        config.set_periodic_bootstrap_interval(None);
    }
    let mut kad = kad::Behaviour::with_config(me, store, config);
    match options.mode.as_str() {
        "server" => kad.set_mode(Some(kad::Mode::Server)),
        "client" => kad.set_mode(Some(kad::Mode::Client)),
        _ => {} // by whether there are external addresses
    }
    let identify = identify::Config::new("ipfs/0.1.0".into(), key.public())
        .with_agent_version("codio-dht-test-rust-peer".into());
    Behaviour {
        kad,
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::default(),
        streams: libp2p_stream::Behaviour::new(),
    }
}

/// Addresses go without `/p2p`, which this library's Kademlia appends.
pub fn describe(peer: &PeerId, addrs: &[Multiaddr]) -> Value {
    let own = format!("/p2p/{peer}");
    let plain = |addr: &Multiaddr| addr.to_string().trim_end_matches(&own).to_string();
    let addrs = addrs.iter().map(plain).collect::<Vec<_>>();
    json!({"peer_id": peer.to_string(), "addrs": addrs})
}

pub fn id_texts<'a>(ids: impl Iterator<Item = &'a PeerId>) -> Value {
    json!({"peers": ids.map(PeerId::to_string).collect::<Vec<_>>()})
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"math/rand"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	defaultMedianRTT = 90 * time.Millisecond
	defaultRTTCap    = 600 * time.Millisecond
	defaultSlowDelay = 1500 * time.Millisecond

	// The first servers are neither dead nor slow: clients join through three of them.
	soundServers     = 5
	bootstrapServers = 3

	keepClosest = 20

	// Collecting garbage at three times the live heap, rather than twice: the swarm shares the
	// processor with who is measured.
	gcPercent = 200
)

// state is whether a server answers.
type state string

const (
	living    state = "living"
	slow      state = "slow" // living, at a long delay
	refusing  state = "refusing"
	blackhole state = "black_hole"
)

type shape struct {
	servers                int
	dead, slow, sigma      float64
	slowDelay, median, cap time.Duration
	seed                   int64
}

type server struct {
	id    peer.ID
	key   [sha256.Size]byte // its place in the keyspace
	state state
	delay time.Duration // one way
	gated bool          // the kernel finishes a handshake only when its round trip is over
	addr  ma.Multiaddr  // what the network knows
	host  host.Host     // nil of the dead
	dht   *dht.IpfsDHT
}

func (n *server) dead() bool { return n.dht == nil }

func (n *server) rtt() time.Duration { return 2 * n.delay }

func (n *server) fullAddr() string { return fmt.Sprintf("%s/p2p/%s", n.addr, n.id) }

type swarm struct {
	shape   shape
	servers []*server
	byID    map[peer.ID]*server
	book    *ledger
	placer  *placer // nil until a value is stored
	gates   *gates  // nil where they are not possible
	took    time.Duration
}

func startSwarm(shape shape) (*swarm, error) {
	debug.SetGCPercent(gcPercent)
	started := time.Now()
	s := &swarm{shape: shape, byID: map[peer.ID]*server{}, book: newLedger(), gates: newGates()}
	rng := rand.New(rand.NewSource(shape.seed))
	dead := 0
	for i := range shape.servers {
		n, key, err := s.draw(rng, i)
		if err != nil {
			return nil, err
		}
		switch n.state {
		case living, slow:
			err = n.start(key, s.book, s.gates)
		default:
			dead++
			if dead%2 == 0 {
				n.state = blackhole
			}
			err = n.playDead()
		}
		if err != nil {
			return nil, fmt.Errorf("server %d: %w", i, err)
		}
		s.servers = append(s.servers, n)
		s.byID[n.id] = n
	}
	s.fillTables(rng)
	s.took = time.Since(started)
	return s, nil
}

// draw decides everything about a server, the same from the same seed whatever the shape's shares:
// each takes the same count of numbers from rng.
func (s *swarm) draw(rng *rand.Rand, index int) (*server, crypto.PrivKey, error) {
	seed := make([]byte, 32)
	rng.Read(seed)
	spread, dies, slows := rng.NormFloat64(), rng.Float64(), rng.Float64()
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(seed))
	if err != nil {
		return nil, nil, err
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	rtt := float64(s.shape.median) * math.Exp(spread*s.shape.sigma)
	n := &server{id: id, key: sha256.Sum256([]byte(id)), state: living}
	n.delay = min(time.Duration(rtt), s.shape.cap) / 2
	switch {
	case index < soundServers:
	case dies < s.shape.dead:
		n.state = refusing
	case slows < s.shape.slow:
		n.state, n.delay = slow, s.shape.slowDelay
	}
	return n, key, nil
}

func (n *server) playDead() error {
	var port int
	var err error
	if n.state == blackhole {
		port, err = blackHole()
	} else {
		_, port, err = boundPort()
	}
	n.addr = loopback(port)
	return err
}

func (n *server) start(key crypto.PrivKey, book *ledger, gates *gates) error {
	proxy, err := listenPlain()
	if err != nil {
		return err
	}
	n.addr = loopback(proxy.Addr().(*net.TCPAddr).Port)
	if n.state == slow && gates != nil {
		n.gated = true
		if err := gates.add(proxy.(*net.TCPListener), n.rtt()); err != nil {
			return err
		}
	}
	n.host, err = libp2p.New(
		libp2p.Identity(key),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.AddrsFactory(func([]ma.Multiaddr) []ma.Multiaddr { return []ma.Multiaddr{n.addr} }),
		libp2p.UserAgent("codio-dht-wan-swarm"),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.DisableRelay(), libp2p.DisableMetrics(), libp2p.DisableIdentifyAddressDiscovery())
	if err != nil {
		return err
	}
	port, err := tcpPort(n.host.Network().ListenAddresses()[0])
	if err != nil {
		return err
	}
	book.watch(n)
	n.dht, err = dht.New(n.host,
		dht.Mode(dht.ModeServer),
		// Nobody but the clients sends anything; the tables are as they were made.
		dht.DisableAutoRefresh(),
		dht.AddressFilter(func(addrs []ma.Multiaddr) []ma.Multiaddr { return addrs }),
		dht.QueryFilter(func(any, peer.AddrInfo) bool { return true }),
		dht.RoutingTableFilter(func(any, peer.ID) bool { return true }),
		dht.OnRequestHook(func(_ context.Context, stream network.Stream, request *pb.Message) {
			book.requested(n, stream.Conn().RemotePeer(), request.GetType().String(), request.GetKey())
		}))
	if err != nil {
		return err
	}
	go n.serve(proxy, "127.0.0.1:"+strconv.Itoa(port), book)
	return nil
}

// fillTables offers every server to every living one, in a random order: each table is what go's
// would be after meeting all of them, the dead included.
func (s *swarm) fillTables(rng *rand.Rand) {
	for _, n := range s.servers {
		order := rng.Perm(len(s.servers))
		if n.dead() {
			continue
		}
		for _, i := range order {
			other := s.servers[i]
			if other == n {
				continue
			}
			if added, _ := n.dht.RoutingTable().TryAddPeer(other.id, true, false); added {
				n.host.Peerstore().AddAddr(other.id, other.addr, peerstore.PermanentAddrTTL)
			}
		}
	}
}

// closest is what a perfect client finds: the living servers closest to a preimage, nearest first.
func (s *swarm) closest(preimage []byte) []*server {
	target := sha256.Sum256(preimage)
	found := slices.DeleteFunc(slices.Clone(s.servers), (*server).dead)
	slices.SortFunc(found, func(a, b *server) int {
		for i := range target {
			if x, y := a.key[i]^target[i], b.key[i]^target[i]; x != y {
				return int(x) - int(y)
			}
		}
		return 0
	})
	return found[:min(keepClosest, len(found))]
}

func loopback(port int) ma.Multiaddr {
	return ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port))
}

func tcpPort(addr ma.Multiaddr) (int, error) {
	text, err := addr.ValueForProtocol(ma.P_TCP)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

func rssMiB() int {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, _ := strconv.Atoi(string(bytes.Fields(statm)[1]))
	return pages * os.Getpagesize() >> 20
}

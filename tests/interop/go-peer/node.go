package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

const (
	kadProtocol    = protocol.ID("/ipfs/kad/1.0.0")
	connectTimeout = 15 * time.Second
)

type nodeOptions struct {
	listen, bootstrap                    list
	mode, seed, security, values, limits string
	noRefresh, optimistic, apart         bool
}

// node is one libp2p host with its DHT, and the streams a test asked it to hold.
type node struct {
	host    host.Host
	dht     *dht.IpfsDHT
	streams heldStreams
}

// swarm is all the nodes of this process.
type swarm struct{ nodes []*node }

// startSwarm starts count nodes and has each of them join through the bootstrap addresses, or,
// where none were given, through the first node; none of them joins if they are to be apart.
func startSwarm(ctx context.Context, options nodeOptions, count int) (*swarm, error) {
	if count < 1 {
		return nil, errors.New("--count must be at least 1")
	}
	if len(options.listen) == 0 {
		options.listen = list{"/ip4/127.0.0.1/tcp/0"}
	}
	s := &swarm{}
	for i := range count {
		n, err := startNode(ctx, options, i)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("node %d: %w", i, err)
		}
		s.nodes = append(s.nodes, n)
	}

	var joining sync.WaitGroup
	for i, n := range s.nodes {
		through := options.bootstrap
		if len(through) == 0 && i > 0 && !options.apart {
			through = s.nodes[0].fullAddrs()
		}
		joining.Add(1)
		go func() {
			defer joining.Done()
			for _, addr := range through {
				if err := n.connect(ctx, addr); err != nil {
					fmt.Fprintf(os.Stderr, "node %d: bootstrap %s: %v\n", i, addr, err)
				}
			}
			if err := n.dht.Bootstrap(ctx); err != nil {
				fmt.Fprintf(os.Stderr, "node %d: bootstrap: %v\n", i, err)
			}
		}()
	}
	joining.Wait()
	return s, nil
}

func startNode(ctx context.Context, options nodeOptions, index int) (*node, error) {
	hostOptions, err := options.forHost(index)
	if err != nil {
		return nil, err
	}
	h, err := libp2p.New(hostOptions...)
	if err != nil {
		return nil, err
	}
	dhtOptions, err := options.forDHT()
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	d, err := dht.New(h, dhtOptions...)
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return &node{host: h, dht: d}, nil
}

func (o nodeOptions) forHost(index int) ([]libp2p.Option, error) {
	options := []libp2p.Option{
		libp2p.ListenAddrStrings(o.listen...),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(quic.NewTransport),
		libp2p.UserAgent("codio-dht-test-go-peer"),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		// Everything is on loopback: what others observe of us is of no use.
		libp2p.DisableIdentifyAddressDiscovery(),
	}
	for _, name := range strings.Split(o.security, ",") {
		switch name {
		case "noise":
			options = append(options, libp2p.Security(noise.ID, noise.New))
		case "tls":
			options = append(options, libp2p.Security(tls.ID, tls.New))
		default:
			return nil, fmt.Errorf("--security %q: noise and tls are known", name)
		}
	}
	switch o.limits {
	case "none":
		options = append(options, libp2p.ResourceManager(&network.NullResourceManager{}))
	case "default":
	default:
		return nil, fmt.Errorf("--limits %q: none and default are known", o.limits)
	}
	if o.seed != "" {
		seed := sha256.Sum256(fmt.Appendf(nil, "codio-dht interop %s %d", o.seed, index))
		key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
		if err != nil {
			return nil, err
		}
		options = append(options, libp2p.Identity(key))
	}
	return options, nil
}

func (o nodeOptions) forDHT() ([]dht.Option, error) {
	options := []dht.Option{
		// Loopback addresses are all there is, so nothing is filtered.
		dht.AddressFilter(func(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr { return addrs }),
		dht.QueryFilter(func(any, peer.AddrInfo) bool { return true }),
		dht.RoutingTableFilter(func(any, peer.ID) bool { return true }),
	}
	switch o.mode {
	case "server":
		options = append(options, dht.Mode(dht.ModeServer))
	case "client":
		options = append(options, dht.Mode(dht.ModeClient))
	case "auto":
		options = append(options, dht.Mode(dht.ModeAuto))
	default:
		return nil, fmt.Errorf("--mode %q: server, client and auto are known", o.mode)
	}
	switch o.values {
	case "amino":
		options = append(options, dht.ProtocolPrefix("/ipfs"))
	case "any":
		// The /ipfs prefix would insist on exactly the pk and ipns namespaces. Another prefix with
		// the protocol id overridden speaks the same on the wire and takes more namespaces.
		options = append(options,
			dht.ProtocolPrefix("/codio-dht-test"), dht.V1ProtocolOverride(kadProtocol),
			dht.NamespacedValidator("v", acceptAll{}), dht.NamespacedValidator("test", acceptAll{}))
	default:
		return nil, fmt.Errorf("--values %q: any and amino are known", o.values)
	}
	if o.optimistic {
		options = append(options, dht.EnableOptimisticProvide())
	}
	if o.noRefresh {
		options = append(options, dht.DisableAutoRefresh())
	}
	return options, nil
}

// acceptAll validates every value and prefers the one it is shown first.
type acceptAll struct{}

func (acceptAll) Validate(string, []byte) error        { return nil }
func (acceptAll) Select(string, [][]byte) (int, error) { return 0, nil }

func (n *node) connect(ctx context.Context, addr string) error {
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return n.host.Connect(ctx, *info)
}

// fullAddrs is where the node listens, each address with /p2p and its id.
func (n *node) fullAddrs() []string {
	addrs := []string{}
	for _, addr := range n.host.Addrs() {
		addrs = append(addrs, fmt.Sprintf("%s/p2p/%s", addr, n.host.ID()))
	}
	return addrs
}

func (n *node) close() {
	n.streams.closeAll()
	_ = n.dht.Close()
	_ = n.host.Close()
}

func (s *swarm) describe() []peerLine {
	lines := []peerLine{}
	for _, n := range s.nodes {
		lines = append(lines, peerLine{PeerID: n.host.ID().String(), Addrs: n.fullAddrs()})
	}
	return lines
}

func (s *swarm) close() {
	var closing sync.WaitGroup
	for _, n := range s.nodes {
		closing.Add(1)
		go func() {
			defer closing.Done()
			n.close()
		}()
	}
	closing.Wait()
}

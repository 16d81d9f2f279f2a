package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

const storeTimeout = 10 * time.Second

// placer puts values to servers beside their proxies: a DHT client that no client of the benchmark
// ever meets.
type placer struct {
	host host.Host
	dht  *dht.IpfsDHT
	puts *pb.ProtocolMessenger
}

func (s *swarm) newPlacer() (*placer, error) {
	h, err := libp2p.New(
		libp2p.NoListenAddrs, libp2p.Transport(tcp.NewTCPTransport),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.DisableRelay(), libp2p.DisableMetrics(), libp2p.DisableIdentifyAddressDiscovery())
	if err != nil {
		return nil, err
	}
	d, err := dht.New(h, dht.Mode(dht.ModeClient), dht.DisableAutoRefresh())
	if err != nil {
		return nil, err
	}
	puts, err := pb.NewProtocolMessenger(d.MessageSender())
	return &placer{h, d, puts}, err
}

// storeValue puts a value to the named servers, at once and without their delays.
func storeValue(s *swarm, r request, key []byte, _ peer.ID) (fields, error) {
	value, err := hex.DecodeString(r.Value)
	if err != nil {
		return nil, err
	}
	if s.placer == nil {
		if s.placer, err = s.newPlacer(); err != nil {
			return nil, err
		}
	}
	ctx, done := context.WithTimeout(context.Background(), storeTimeout)
	defer done()
	for _, text := range r.Peers {
		id, err := peer.Decode(text)
		if err != nil {
			return nil, err
		}
		n, known := s.byID[id]
		if !known || n.dead() {
			return nil, fmt.Errorf("no living server is %s", text)
		}
		s.placer.host.Peerstore().AddAddrs(id, n.host.Network().ListenAddresses(), peerstore.PermanentAddrTTL)
		if err := s.placer.puts.PutValue(ctx, id, record.MakePutRecord(string(key), value)); err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
	}
	return fields{}, nil
}

// putsOf says to which living servers a client has put a value of the key, and when the request
// arrived at each first.
func putsOf(s *swarm, _ request, key []byte, client peer.ID) (fields, error) {
	best := s.closest(key)
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	put := pb.Message_PUT_VALUE.String()
	seen := map[*server]bool{}
	peers, arrived, among := []string{}, []float64{}, 0
	for _, one := range s.book.account(client).requests {
		if one.kind != put || one.key != string(key) || seen[one.server] {
			continue
		}
		seen[one.server] = true
		peers = append(peers, one.server.id.String())
		arrived = append(arrived, unixSeconds(one.at))
		if slices.Contains(best, one.server) {
			among++
		}
	}
	return fields{"peers": peers, "arrived": arrived, "among_closest": among}, nil
}

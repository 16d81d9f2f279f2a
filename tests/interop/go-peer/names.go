package main

import (
	"context"
	"time"

	"github.com/ipfs/boxo/ipns"
	"github.com/ipfs/boxo/path"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	recordLifetime = 48 * time.Hour
	recordTTL      = time.Hour
)

// publishName signs an IPNS record with the node's own key, as Kubo's namesys does, and puts it.
func publishName(ctx context.Context, n *node, a arguments) (fields, error) {
	target, err := path.NewPath(a.Path)
	if err != nil {
		return nil, err
	}
	key := n.host.Peerstore().PrivKey(n.host.ID())
	record, err := ipns.NewRecord(key, target, a.Sequence, time.Now().Add(recordLifetime), recordTTL)
	if err != nil {
		return nil, err
	}
	value, err := ipns.MarshalRecord(record)
	if err != nil {
		return nil, err
	}
	return nil, n.dht.PutValue(ctx, string(ipns.NameFromPeer(n.host.ID()).RoutingKey()), value)
}

// resolveName gets the record of a name, which the DHT's validator has checked, and reads it.
func resolveName(ctx context.Context, n *node, a arguments) (fields, error) {
	id, err := peer.Decode(a.PeerID)
	if err != nil {
		return nil, err
	}
	value, err := n.dht.GetValue(ctx, string(ipns.NameFromPeer(id).RoutingKey()))
	if err != nil {
		return nil, err
	}
	record, err := ipns.UnmarshalRecord(value)
	if err != nil {
		return nil, err
	}
	target, err := record.Value()
	if err != nil {
		return nil, err
	}
	return fields{"path": target.String()}, nil
}

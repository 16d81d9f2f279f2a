package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify/pb"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	quictransport "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/proto"
)

const (
	kadProtocol      = protocol.ID("/ipfs/kad/1.0.0")
	identifyProtocol = protocol.ID("/ipfs/id/1.0.0")
	pingProtocol     = protocol.ID("/ipfs/ping/1.0.0")
	pingBytes        = 32

	connectTimeout = 30 * time.Second
	replyTimeout   = 10 * time.Second
)

// client is one identity with one connection: go-libp2p's transports without its host, so that
// thousands of them fit one process and none does more than it is told to.
type client struct {
	id         peer.ID
	key        crypto.PrivKey
	listensOn  []multiaddr.Multiaddr // what it says of itself; nobody listens there
	answerKad  func(request []byte) []byte
	connection transport.CapableConn
}

func newClient(key crypto.PrivKey) (*client, error) {
	id, err := peer.IDFromPrivateKey(key)
	return &client{id: id, key: key}, err
}

// newConnected is a client of a new identity, connected.
func newConnected(server peer.ID, addr multiaddr.Multiaddr) (*client, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	c, err := newClient(key)
	if err != nil {
		return nil, err
	}
	return c, c.connect(server, addr)
}

func newKey() (crypto.PrivKey, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	return key, err
}

// connect dials the server, and from then on answers what it asks of us.
func (c *client) connect(server peer.ID, addr multiaddr.Multiaddr) error {
	dialer, err := c.transportFor(addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	c.connection, err = dialer.Dial(ctx, addr, server)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	go c.serve()
	return nil
}

func (c *client) transportFor(addr multiaddr.Multiaddr) (transport.Transport, error) {
	if _, err := addr.ValueForProtocol(multiaddr.P_QUIC_V1); err == nil {
		manager, err := sharedQUIC()
		if err != nil {
			return nil, err
		}
		return quictransport.NewTransport(c.key, manager, nil, nil, nil)
	}
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	security, err := noise.New(noise.ID, c.key, muxers)
	if err != nil {
		return nil, err
	}
	up, err := upgrader.New([]sec.SecureTransport{security}, muxers, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	return tcp.NewTCPTransport(up, nil, nil)
}

// sharedQUIC is one UDP socket for all clients.
var sharedQUIC = sync.OnceValues(func() (*quicreuse.ConnManager, error) {
	return quicreuse.NewConnManager(quic.StatelessResetKey{}, quic.TokenGeneratorKey{})
})

// openKad is a new stream; its negotiation goes out with the first request, as go's host does it.
func (c *client) openKad(ctx context.Context) (*kadStream, error) {
	muxed, err := c.connection.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	negotiated := multistream.NewMSSelect(muxed, kadProtocol)
	return &kadStream{MuxedStream: muxed, negotiated: negotiated, reader: bufio.NewReader(negotiated)}, nil
}

// askOnce is one request on a stream of its own.
func (c *client) askOnce(message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), replyTimeout)
	defer cancel()
	stream, err := c.openKad(ctx)
	if err != nil {
		return nil, err
	}
	_ = stream.SetDeadline(time.Now().Add(replyTimeout))
	var reply []byte
	if err = stream.send(framed(message)); err == nil {
		reply, err = stream.receive()
	}
	if err != nil {
		_ = stream.Reset()
		return nil, fmt.Errorf("request: %w", err)
	}
	return reply, stream.Close()
}

func (c *client) serve() {
	for {
		stream, err := c.connection.AcceptStream()
		if err != nil {
			return
		}
		go c.serveStream(stream)
	}
}

func (c *client) serveStream(stream network.MuxedStream) {
	defer func() { _ = stream.Close() }()
	mux := multistream.NewMultistreamMuxer[protocol.ID]()
	for _, spoken := range c.protocols() {
		mux.AddHandler(spoken, nil)
	}
	chosen, _, err := mux.Negotiate(stream)
	if err != nil {
		return
	}
	switch chosen {
	case identifyProtocol:
		_ = c.identify(stream)
	case pingProtocol:
		buffer := make([]byte, pingBytes)
		for err == nil {
			if _, err = io.ReadFull(stream, buffer); err == nil {
				_, err = stream.Write(buffer)
			}
		}
	case kadProtocol:
		reader := bufio.NewReader(stream)
		for err == nil {
			var request []byte
			if request, err = readFrame(reader); err == nil {
				_, err = stream.Write(framed(c.answerKad(request)))
			}
		}
	}
}

func (c *client) protocols() []protocol.ID {
	spoken := []protocol.ID{identifyProtocol, pingProtocol}
	if c.answerKad != nil {
		spoken = append(spoken, kadProtocol)
	}
	return spoken
}

func (c *client) identify(to io.Writer) error {
	public, err := crypto.MarshalPublicKey(c.key.GetPublic())
	if err != nil {
		return err
	}
	version, agent := "ipfs/0.1.0", "codio-dht-load"
	message := &pb.Identify{ProtocolVersion: &version, AgentVersion: &agent, PublicKey: public}
	for _, spoken := range c.protocols() {
		message.Protocols = append(message.Protocols, string(spoken))
	}
	for _, addr := range c.listensOn {
		message.ListenAddrs = append(message.ListenAddrs, addr.Bytes())
	}
	encoded, err := proto.Marshal(message)
	if err != nil {
		return err
	}
	_, err = to.Write(framed(encoded))
	return err
}

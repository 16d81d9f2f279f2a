// Command load measures one kad server as its clients see it, from one process on loopback.
//
//	load rpc   requests over one connection, a number of them in flight, for some seconds
//	load idle  many connections, each from an identity of its own, that ask once and then stay
//	load fill  peers that are servers themselves, chosen so that all fit the server's routing table
//
// Each prints one JSON object a line. With -pid it also reads the server's processor time and
// memory, at the moments between which it measures. fill and idle keep their connections until
// stdin ends.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

type fields = map[string]any

// common is what every command is told.
type common struct {
	target string
	pid    int
}

func main() {
	commands := map[string]func([]string) error{"rpc": rpc, "idle": idle, "fill": fill}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "load: rpc, idle or fill?")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func newFlags(name string) (*flag.FlagSet, *common) {
	flags, c := flag.NewFlagSet("load "+name, flag.ExitOnError), &common{}
	flags.StringVar(&c.target, "target", "", "multiaddr of the server with /p2p, on loopback")
	flags.IntVar(&c.pid, "pid", 0, "the server's process, to read its processor time and memory")
	return flags, c
}

// server is the target, which has to be on this machine: nobody else wants to be loaded.
func (c *common) server() (peer.ID, multiaddr.Multiaddr, error) {
	info, err := peer.AddrInfoFromString(c.target)
	if err != nil {
		return "", nil, fmt.Errorf("-target %q: %w", c.target, err)
	}
	ip, err := manet.ToIP(info.Addrs[0])
	if err != nil {
		return "", nil, err
	}
	if !ip.IsLoopback() {
		return "", nil, errors.New("-target is not on loopback")
	}
	return info.ID, info.Addrs[0], nil
}

func say(line fields) {
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

// untilStdinEnds holds what was set up for the one that started us.
func untilStdinEnds(ctx context.Context) {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

package main

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	readBytes = 16 << 10
	// queued pieces of one direction; a sender that is further ahead than this waits.
	maxQueued = 256
	// What a SYN queue of length 0 takes before the kernel drops what comes: one, on Linux; more do
	// no harm.
	fillers = 3
)

// connection is one that came in through a proxy.
type connection struct {
	server   *server
	client   atomic.Pointer[peer.ID] // once the handshake has told
	up, down atomic.Int64            // bytes, from and to the client

	mu    sync.Mutex
	heard []time.Time // whenever bytes of the server reached the client
}

// heardBy is when the client last heard of the server until then; zero if it had not.
func (c *connection) heardBy(then time.Time) (last time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, at := range slices.Backward(c.heard) {
		if !at.After(then) {
			return at
		}
	}
	return last
}

func (c *connection) delivered(count int) {
	c.down.Add(int64(count))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = append(c.heard, time.Now())
}

// piece is what was read at once, and when it arrives.
type piece struct {
	due  time.Time
	data []byte
}

// serve carries what comes to the listener to the server behind it, each byte delayed by the
// server's one-way delay. On loopback the kernel has accepted a connection at once; so nothing that
// was sent before the handshake would have been over leaves before then, and the server learns of
// the connection when the handshake's last segment would have arrived. Before a slow server there is
// a gate, where possible, that keeps the kernel from accepting so early.
func (n *server) serve(listener net.Listener, backend string, book *ledger) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		go n.carry(client, backend, book)
	}
}

func (n *server) carry(client net.Conn, backend string, book *ledger) {
	defer client.Close()
	opened := time.Now()
	if !n.gated {
		opened = opened.Add(n.rtt())
	}
	var c connection
	c.server = n
	sent := make(chan piece, maxQueued)
	go read(client, n.delay, opened, sent)
	defer drain(sent)

	time.Sleep(time.Until(opened.Add(n.delay)))
	behind, err := net.Dial("tcp", backend)
	if err != nil {
		return
	}
	defer behind.Close()
	book.opened(behind.LocalAddr().(*net.TCPAddr).Port, &c)
	answered := make(chan piece, maxQueued)
	go read(behind, n.delay, time.Time{}, answered)
	defer drain(answered)

	var directions sync.WaitGroup
	directions.Add(2)
	go func() {
		defer directions.Done()
		write(behind, sent, func(count int) { c.up.Add(int64(count)) })
	}()
	go func() {
		defer directions.Done()
		write(client, answered, c.delivered)
	}()
	directions.Wait()
}

// read notes when each piece arrives at the other end: no byte leaves before `from`.
func read(conn net.Conn, delay time.Duration, from time.Time, into chan<- piece) {
	defer close(into)
	buffer := make([]byte, readBytes)
	for {
		count, err := conn.Read(buffer)
		if count > 0 {
			leaves := time.Now()
			if leaves.Before(from) {
				leaves = from
			}
			into <- piece{leaves.Add(delay), append([]byte(nil), buffer[:count]...)}
		}
		if err != nil {
			into <- piece{due: time.Now().Add(delay)} // the end travels as well
			return
		}
	}
}

func write(conn net.Conn, from <-chan piece, delivered func(int)) {
	for p := range from {
		time.Sleep(time.Until(p.due))
		if len(p.data) == 0 {
			break
		}
		if _, err := conn.Write(p.data); err != nil {
			conn.Close()
			return
		}
		delivered(len(p.data))
	}
	if end, ok := conn.(*net.TCPConn); ok {
		_ = end.CloseWrite()
	}
}

// drain lets a reader that waits for room come to its end; the connections are closed after it.
func drain(pieces <-chan piece) {
	go func() {
		for range pieces {
		}
	}()
}

// listenPlain listens without multipath TCP, which has no filters.
func listenPlain() (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp", "127.0.0.1:0")
}

// blackHole is a port of loopback where a connection attempt hears nothing: its queue is full, and
// the kernel drops what else comes.
func blackHole() (int, error) {
	listener, port, err := boundPort()
	if err != nil {
		return 0, err
	}
	if err := syscall.Listen(listener, 0); err != nil {
		return 0, err
	}
	for range fillers {
		filler, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		err = syscall.Connect(filler, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port})
		if err != nil && err != syscall.EINPROGRESS {
			return 0, err
		}
	}
	return port, nil
}

// boundPort is a port that refuses connections and that nobody else gets, until it listens.
func boundPort() (socket, port int, err error) {
	socket, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	if err = syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, 0, err
	}
	at, err := syscall.Getsockname(socket)
	if err != nil {
		return 0, 0, err
	}
	return socket, at.(*syscall.SockaddrInet4).Port, nil
}

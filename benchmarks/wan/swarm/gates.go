package main

import (
	"encoding/binary"
	"net"
	"sync"
	"syscall"
	"time"
)

// Gates hold back the TCP handshake with slow servers, which the kernel would otherwise finish at
// once on loopback: a client could take that for a sign of life seconds before a slow server could
// give one. A filter on the server's listener drops a client's first segment until a round trip is
// about to be over; what the client's kernel repeats then, whole seconds after the first, is taken.
// So this is for round trips of whole seconds only. Seeing the first segments needs CAP_NET_RAW.

const (
	gateOpensBefore = 300 * time.Millisecond // the round trip is over
	gateClosesAfter = 1500 * time.Millisecond

	tcpFlagsAt, ipProtocolAt = 13, 9
	synFlag, ackFlag         = 0x02, 0x10
	everything               = 1 << 18 // bytes of a packet that a filter lets pass
)

// clientPort is a client's side of a connection to one gate.
type clientPort struct {
	gate *gate
	port uint16
}

// gate is one slow server's.
type gate struct {
	listener *net.TCPListener
	rtt      time.Duration
	open     map[uint16]bool // client ports whose handshake may go on
}

type gates struct {
	mu     sync.Mutex
	byPort map[uint16]*gate
	seen   map[clientPort]bool
}

// newGates starts to watch loopback; nil if this process may not.
func newGates() *gates {
	loopback, err := net.InterfaceByName("lo")
	if err != nil {
		return nil
	}
	socket, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, int(networkOrder(syscall.ETH_P_IP)))
	if err != nil {
		return nil
	}
	if err := syscall.AttachLsf(socket, onlySYN()); err != nil {
		return nil
	}
	at := &syscall.SockaddrLinklayer{Protocol: networkOrder(syscall.ETH_P_IP), Ifindex: loopback.Index}
	if err := syscall.Bind(socket, at); err != nil {
		return nil
	}
	g := &gates{byPort: map[uint16]*gate{}, seen: map[clientPort]bool{}}
	go g.watch(socket)
	return g
}

// add puts a gate before a listener.
func (g *gates) add(listener *net.TCPListener, rtt time.Duration) error {
	one := &gate{listener, rtt, map[uint16]bool{}}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.byPort[uint16(listener.Addr().(*net.TCPAddr).Port)] = one
	return one.filter()
}

func (g *gates) watch(socket int) {
	packet := make([]byte, 256)
	for {
		length, _, err := syscall.Recvfrom(socket, packet, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return
		}
		header := int(packet[0]&0x0f) * 4
		if length < header+4 {
			continue
		}
		from := binary.BigEndian.Uint16(packet[header:])
		to := binary.BigEndian.Uint16(packet[header+2:])
		g.knocked(from, to)
	}
}

// knocked is told of every first segment, and of the same one again.
func (g *gates) knocked(from, to uint16) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one, known := g.byPort[to]
	who := clientPort{one, from}
	if !known || g.seen[who] {
		return
	}
	g.seen[who] = true
	time.AfterFunc(one.rtt-gateOpensBefore, func() { g.set(who, true) })
	time.AfterFunc(one.rtt+gateClosesAfter, func() { g.set(who, false) })
}

func (g *gates) set(who clientPort, open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if open {
		who.gate.open[who.port] = true
	} else {
		delete(who.gate.open, who.port)
		delete(g.seen, who)
	}
	_ = who.gate.filter() // it could be attached before
}

// filter lets everything pass but the first segments of clients whose gate is closed.
func (o *gate) filter() error {
	program := []syscall.SockFilter{*syscall.LsfStmt(syscall.BPF_LD+syscall.BPF_H+syscall.BPF_ABS, 0)}
	for port := range o.open {
		program = append(program,
			*syscall.LsfJump(syscall.BPF_JMP+syscall.BPF_JEQ+syscall.BPF_K, int(port), 0, 1),
			*syscall.LsfStmt(syscall.BPF_RET+syscall.BPF_K, everything))
	}
	program = append(program,
		*syscall.LsfStmt(syscall.BPF_LD+syscall.BPF_B+syscall.BPF_ABS, tcpFlagsAt),
		*syscall.LsfJump(syscall.BPF_JMP+syscall.BPF_JSET+syscall.BPF_K, synFlag, 0, 1),
		*syscall.LsfStmt(syscall.BPF_RET+syscall.BPF_K, 0),
		*syscall.LsfStmt(syscall.BPF_RET+syscall.BPF_K, everything))
	raw, err := o.listener.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	if err := raw.Control(func(socket uintptr) { failure = syscall.AttachLsf(int(socket), program) }); err != nil {
		return err
	}
	return failure
}

// onlySYN passes the first segments of TCP connections over IPv4.
func onlySYN() []syscall.SockFilter {
	return []syscall.SockFilter{
		*syscall.LsfStmt(syscall.BPF_LD+syscall.BPF_B+syscall.BPF_ABS, ipProtocolAt),
		*syscall.LsfJump(syscall.BPF_JMP+syscall.BPF_JEQ+syscall.BPF_K, syscall.IPPROTO_TCP, 0, 5),
		*syscall.LsfStmt(syscall.BPF_LDX+syscall.BPF_B+syscall.BPF_MSH, 0),
		*syscall.LsfStmt(syscall.BPF_LD+syscall.BPF_B+syscall.BPF_IND, tcpFlagsAt),
		*syscall.LsfStmt(syscall.BPF_ALU+syscall.BPF_AND+syscall.BPF_K, synFlag|ackFlag),
		*syscall.LsfJump(syscall.BPF_JMP+syscall.BPF_JEQ+syscall.BPF_K, synFlag, 0, 1),
		*syscall.LsfStmt(syscall.BPF_RET+syscall.BPF_K, everything),
		*syscall.LsfStmt(syscall.BPF_RET+syscall.BPF_K, 0),
	}
}

func networkOrder(value uint16) uint16 {
	return value<<8 | value>>8
}

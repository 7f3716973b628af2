package membership

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	sockaddr "github.com/hashicorp/go-sockaddr"
	"github.com/hashicorp/memberlist"
)

// parseAdvertise reads ip or ip:port; given is false for the empty string.
func parseAdvertise(s string) (address netip.AddrPort, given bool, err error) {
	if s == "" {
		return netip.AddrPort{}, false, nil
	}
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		address = netip.AddrPortFrom(ip, 0)
	} else if address, err = netip.ParseAddrPort(s); err != nil {
		return netip.AddrPort{}, true, fmt.Errorf("gossip cannot advertise %q: want an IP address, with or without a port", s)
	}
	ip := address.Addr().Unmap()
	if ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		return netip.AddrPort{}, true, fmt.Errorf("gossip cannot advertise %q: nobody can connect to it; give the address at which other members reach this node", s)
	}
	return netip.AddrPortFrom(ip, address.Port()), true, nil
}

// advertised decides where others reach a node that listens on bound. private
// finds the machine's own private address, or says what it has instead.
func advertised(advertise string, bound netip.AddrPort, private func(v4only bool) (netip.Addr, error)) (netip.AddrPort, error) {
	address, given, err := parseAdvertise(advertise)
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case given && address.Port() != 0:
		return address, nil
	case given:
		return netip.AddrPortFrom(address.Addr(), bound.Port()), nil
	case !bound.Addr().IsUnspecified():
		return bound, nil
	}
	ip, err := private(bound.Addr().Is4())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("gossip listens on all addresses and cannot tell which one to advertise: %w; set gossip's advertise address to the one at which other members reach this node", err)
	}
	return netip.AddrPortFrom(ip, bound.Port()), nil
}

// privateAddress is the private IPv4 address of the interface with the default
// route, which a container's bridge is not; without one, any private IPv6
// address. A public address is never guessed: to announce it is a decision.
func privateAddress(v4only bool) (netip.Addr, error) {
	if s, err := sockaddr.GetPrivateIP(); err == nil && s != "" {
		if ip, err := netip.ParseAddr(s); err == nil {
			return ip.Unmap(), nil
		}
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("its interfaces cannot be listed: %w", err)
	}
	var found []string
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		ip := prefix.Addr().Unmap()
		if ip.IsPrivate() && !(v4only && ip.Is6()) {
			return ip, nil
		}
		if !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			found = append(found, ip.String())
		}
	}
	if len(found) == 0 {
		return netip.Addr{}, fmt.Errorf("this machine has no address but loopback")
	}
	return netip.Addr{}, fmt.Errorf("this machine has no private address, only %s", strings.Join(found, ", "))
}

// advertisedBy asks a transport that was given where it is reached.
func advertisedBy(t memberlist.Transport, advertise string) (netip.AddrPort, error) {
	address, given, err := parseAdvertise(advertise)
	if err != nil {
		return netip.AddrPort{}, err
	}
	wanted := ""
	if given {
		wanted = address.Addr().String()
	}
	ip, port, err := t.FinalAdvertiseAddr(wanted, int(address.Port()))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("gossip has no address to advertise: %w", err)
	}
	final, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("gossip cannot advertise %q", ip)
	}
	return netip.AddrPortFrom(final.Unmap(), uint16(port)), nil
}

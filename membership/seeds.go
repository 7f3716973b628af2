package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
)

// seed is where to look for other members: the addresses of a host, or the
// targets of an SRV record.
type seed struct {
	text string // as configured, for messages
	host string
	port uint16
	srv  bool
}

// parseSeed reads host:port, dns+host:port and dnssrv+name.
func parseSeed(s string) (seed, error) {
	if name, ok := strings.CutPrefix(s, "dnssrv+"); ok {
		if name == "" || strings.ContainsAny(name, ": ") {
			return seed{}, fmt.Errorf("seed %q: want dnssrv+ and the name of an SRV record, which holds the port", s)
		}
		return seed{text: s, host: name, srv: true}, nil
	}
	host, port, err := net.SplitHostPort(strings.TrimPrefix(s, "dns+"))
	if err != nil || host == "" || strings.ContainsAny(host, " +/") {
		return seed{}, fmt.Errorf("seed %q: want host:port, dns+host:port or dnssrv+name", s)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return seed{}, fmt.Errorf("seed %q: %q is not a port", s, port)
	}
	return seed{text: s, host: host, port: uint16(number)}, nil
}

// resolve returns the seed's addresses as they are now.
func (s seed) resolve(ctx context.Context, r Resolver) ([]netip.AddrPort, error) {
	if !s.srv {
		return lookup(ctx, r, s.host, s.port)
	}
	_, records, err := r.LookupSRV(ctx, "", "", s.host)
	if err != nil {
		return nil, fmt.Errorf("the SRV record %q cannot be resolved: %w", s.host, err)
	}
	var addresses []netip.AddrPort
	var errs []error
	for _, record := range records {
		found, err := lookup(ctx, r, strings.TrimSuffix(record.Target, "."), record.Port)
		addresses = append(addresses, found...)
		errs = append(errs, err)
	}
	if len(addresses) > 0 {
		return addresses, nil
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("the SRV record %q is empty", s.host)
	}
	return nil, errors.Join(errs...)
}

func lookup(ctx context.Context, r Resolver, host string, port uint16) ([]netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), port)}, nil
	}
	ips, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("the name %q cannot be resolved: %w", host, err)
	}
	addresses := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		addresses = append(addresses, netip.AddrPortFrom(ip.Unmap(), port))
	}
	return addresses, nil
}

// resolveAll resolves every seed, all at once so that a slow name delays no
// other. problems are the seeds that have no address, each with the reason.
func resolveAll(ctx context.Context, r Resolver, seeds []seed) (addresses []netip.AddrPort, problems []string) {
	found := make([][]netip.AddrPort, len(seeds))
	errs := make([]error, len(seeds))
	var wg sync.WaitGroup
	for i, s := range seeds {
		// Ends when ctx does, at the latest.
		wg.Go(func() { found[i], errs[i] = s.resolve(ctx, r) })
	}
	wg.Wait()
	for i, s := range seeds {
		if errs[i] != nil {
			problems = append(problems, fmt.Sprintf("seed %s: %v", s.text, errs[i]))
		}
		addresses = append(addresses, found[i]...)
	}
	return addresses, problems
}

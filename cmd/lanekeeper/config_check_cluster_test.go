package main

import "testing"

// Mutants killed: listeners of a cluster that is off are open; a name is
// loopback; tokens are asked for by the port; a v4-mapped address is not
// loopback.
func TestConfigAdmin(t *testing.T) {
	runProblemTests(t, []problemTest{
		{"taken by another listener", "admin: {listen: \"127.0.0.1:7941\"}\n" + someApp, []string{
			`lk.yaml:1:9: error: admin.listen: 127.0.0.1:7941 is taken by observe.listen (:7941)`,
		}},
		{"loopback", "admin: {listen: \"[::1]:1\"}\n" + someApp, nil},
		{"loopback by name", "admin: {listen: \"LOCALHOST:1\"}\n" + someApp, nil},
		{"all of loopback", "admin: {listen: \"127.1.2.3:1\"}\n" + someApp, nil},
		{"loopback in the other family", "admin: {listen: \"[::ffff:127.0.0.1]:1\"}\n" + someApp, nil},
		{"every address", "admin: {listen: \":7942\", allowed_hosts: [lk-0]}\n" + someApp, []string{
			`lk.yaml:1:1: error: admin.token_file: required, since admin.listen (:7942) can be reached from other machines: put a token (openssl rand -hex 32) into a file, or listen on 127.0.0.1`,
		}},
		{"one address", "admin: {listen: \"10.0.0.1:7942\", token_file: /run/token, allowed_hosts: [\"10.0.0.1\"]}\n" + someApp, []string{
			`lk.yaml:1:1: warning: admin.tls: admin.listen (10.0.0.1:7942) can be reached from other machines, and tokens are sent to it in plain text: give cert_file and key_file, unless the network is yours alone`,
		}},
		{"one address, with TLS", "admin: {listen: \"10.0.0.1:7942\", token_file: /run/token, allowed_hosts: [\"10.0.0.1\"], tls: {cert_file: a, key_file: b}}\n" + someApp, nil},
		{"a certificate without its key", "admin: {tls: {cert_file: a}}\n" + someApp, []string{
			`lk.yaml:1:9: error: admin.tls.key_file: required, since another file of admin.tls is given: TLS wants a certificate and its private key`,
		}},
		{"profiles for anybody", "admin: {pprof: true}\n" + someApp, []string{
			`lk.yaml:1:1: error: admin.token_file: required, since admin.pprof is on: put a token (openssl rand -hex 32) into a file`,
		}},
		{"profiles", "admin: {pprof: true, token_file: /run/token}\n" + someApp, nil},
		{"a name", "admin: {listen: \"localhost.example:7942\", allowed_hosts: [localhost.example]}\n" + someApp, []string{
			`lk.yaml:1:1: error: admin.token_file: required, since admin.listen (localhost.example:7942) can be reached from other machines: put a token (openssl rand -hex 32) into a file, or listen on 127.0.0.1`,
		}},
		{"only names of this machine", "admin: {listen: \":7942\", token_file: /run/token, tls: {cert_file: a, key_file: b}}\n" + someApp, []string{
			`lk.yaml:1:1: warning: admin.allowed_hosts: admin.listen (:7942) can be reached from other machines, but only by names of this one: add those that they use`,
		}},
		{"no names", "admin: {allowed_hosts: []}\n" + someApp, []string{
			`lk.yaml:1:9: error: admin.allowed_hosts: required: at least one, like localhost; requests by any other name are refused`,
		}},
		{"names", "admin: {allowed_hosts: [lk-0.lk, \"::1\", \"[::1]\", \"lk-0:7942\", \"*\", \"http://lk-0\"]}\n" + someApp, []string{
			`lk.yaml:1:50: error: admin.allowed_hosts[3]: "lk-0:7942" is neither a host name nor an IP address; write it without a port`,
			`lk.yaml:1:63: error: admin.allowed_hosts[4]: "*" is neither a host name nor an IP address; write it without a port`,
			`lk.yaml:1:68: error: admin.allowed_hosts[5]: "http://lk-0" is neither a host name nor an IP address; write it without a port`,
		}},
		{"only the cause", "admin: {listen: \"7942\"}\n" + someApp, []string{
			`lk.yaml:1:9: error: admin.listen: "7942" is not an address: write host:port or :port`,
		}},
	})
}

// Mutants killed: a cluster that is off is asked for secrets; one loopback
// listener is enough to go without; an advertised address is not looked at;
// half of the certificates pass.
func TestConfigCluster(t *testing.T) {
	const secret = "  secret_file: /run/lk.key\n"
	on := func(more string) string {
		return someApp + "cluster:\n  enabled: true\n  join: [\"dns+lk:7943\"]\n" + more
	}
	required := func(place, why string) []string {
		return []string{"lk.yaml:" + place + ": error: cluster.secret_file: required, since :7943 and :7944 can be reached from other machines" + why}
	}
	const local = "  gossip: {listen: \"127.0.0.1:7943\"}\n  peer: {listen: \"localhost:7944\"}\n"
	const certificates = "tls: {cert_file: a, key_file: b, client_ca_file: c}"
	runProblemTests(t, []problemTest{
		{"off", "cluster: {enabled: false, join: [\"lk-0:7943\", \"lk-1:7943\"], gossip: {listen: \":7940\"}}\n" + someApp, nil},
		{"off, but wrong", "cluster: {join: [lk-0], gossip: {listen: \"7943\"}}\n" + someApp, []string{
			`lk.yaml:1:18: error: cluster.join[0]: "lk-0" is not a member: write host:port, dns+host:port for every address of a name, or dnssrv+name for an SRV record`,
			`lk.yaml:1:34: error: cluster.gossip.listen: "7943" is not an address: write host:port or :port`,
		}},
		{"with a secret", on(secret), nil},
		{"without", on(""), required("3:1", ": put a line of openssl rand -base64 32 into a file that every member has")},
		{"gossip alone has one", on("  gossip: {secret_file: /run/gossip.key}\n"),
			required("3:1", ", and gossip.secret_file is for gossip alone: put a line of openssl rand -base64 32 into a file that every member has, or give peer.tls")},
		{"certificates alone", on("  peer: {" + certificates + "}\n"),
			required("3:1", ", and peer.tls is for peer alone: put a line of openssl rand -base64 32 into a file that every member has; it may also be gossip.secret_file")},
		{"both", on("  gossip: {secret_file: /run/gossip.key}\n  peer: {" + certificates + "}\n"), nil},
		{"all three", on(secret + "  gossip: {secret_file: /run/gossip.key}\n  peer: {" + certificates + "}\n"), nil},
		{"all on this machine", on(local), nil},
		{"gossip alone on this machine", on("  gossip: {listen: \"127.0.0.1:7943\"}\n"), []string{
			`lk.yaml:3:1: error: cluster.secret_file: required, since 127.0.0.1:7943 and :7944 can be reached from other machines: put a line of openssl rand -base64 32 into a file that every member has`,
		}},
		{"passed on to this machine", on("  gossip: {listen: \"127.0.0.1:7943\", advertise: \"10.0.0.1:7943\"}\n  peer: {listen: \"127.0.0.1:7944\"}\n"), []string{
			`lk.yaml:3:1: error: cluster.secret_file: required, since 127.0.0.1:7943 and 127.0.0.1:7944 can be reached from other machines: put a line of openssl rand -base64 32 into a file that every member has`,
		}},
		{"some certificates", on(secret + "  peer:\n    tls:\n      cert_file: a\n      key_file: \"\"\n"), []string{
			`lk.yaml:8:5: error: cluster.peer.tls.client_ca_file: required: each member proves itself to the other, so it wants cert_file, key_file and client_ca_file, or none of them`,
			`lk.yaml:10:7: error: cluster.peer.tls.key_file: required: each member proves itself to the other, so it wants cert_file, key_file and client_ca_file, or none of them`,
		}},
		{"one port for two", on(secret + "  gossip: {listen: \":7944\"}\n"), []string{
			`lk.yaml:3:1: error: cluster.peer.listen: :7944 is taken by cluster.gossip.listen (:7944)`,
		}},
		{"the port of clients", on(secret + "  peer: {listen: \"10.0.0.1:7940\"}\n"), []string{
			`lk.yaml:7:10: error: cluster.peer.listen: 10.0.0.1:7940 is taken by server.listen (:7940)`,
		}},
		{"advertised", on(secret + "  gossip: {advertise: \"[fd00::1]:7943\"}\n  peer: {advertise: \"lk-0.lk:1\"}\n"), nil},
		{"advertised by a name", on(secret + "  gossip: {advertise: \"lk-0.lk:7943\"}\n"), []string{
			`lk.yaml:7:12: error: cluster.gossip.advertise: "lk-0.lk" is a name, and gossip knows members by their addresses: write ip:port`,
		}},
		{"gossip on a name", on(secret + "  gossip: {listen: \"lk-0:7943\"}\n"), []string{
			`lk.yaml:7:12: error: cluster.gossip.listen: "lk-0" is a name, and gossip listens on addresses: write ip:port or :port`,
		}},
		{"gossip on a zone", on(secret + "  gossip: {listen: \"[fe80::1%eth0]:7943\"}\n"), []string{
			`lk.yaml:7:12: error: cluster.gossip.listen: "fe80::1%eth0" is a name, and gossip listens on addresses: write ip:port or :port`,
		}},
		{"advertised, but nowhere", on(secret + "  gossip: {advertise: \":7943\"}\n  peer: {advertise: \"0.0.0.0:7944\"}\n"), []string{
			`lk.yaml:7:12: error: cluster.gossip.advertise: ":7943" names no machine: write the address at which other members reach this one`,
			`lk.yaml:8:10: error: cluster.peer.advertise: "0.0.0.0:7944" names no machine: write the address at which other members reach this one`,
		}},
		{"advertised without a port", on(secret + "  gossip: {advertise: \"10.0.0.1:0\"}\n  peer: {advertise: \"10.0.0.1\"}\n"), []string{
			`lk.yaml:7:12: error: cluster.gossip.advertise: "0" is not a port: a number from 1 to 65535`,
			`lk.yaml:8:10: error: cluster.peer.advertise: "10.0.0.1" is not an address: write host:port or :port`,
		}},
		{"nobody to join", someApp + "cluster: {enabled: true, secret_file: /run/lk.key}\n", []string{
			`lk.yaml:3:1: warning: cluster.join: nobody to join: nodes that all start like this are each a cluster of its own, with an order of its own. Name some members; this node may be among them`,
		}},
		{"names", someApp + "node: {name: \"lk 0\", zone: \"a/b\"}\ncluster: {name: \"\"}\n", []string{
			`lk.yaml:3:8: error: node.name: "lk 0" does not match [A-Za-z0-9._-]{0,64}`,
			`lk.yaml:3:22: error: node.zone: "a/b" does not match [A-Za-z0-9._-]{0,63}`,
			`lk.yaml:4:11: error: cluster.name: "" does not match [A-Za-z0-9._-]{1,64}`,
		}},
		{"bounds", on(secret + "  min_members: 0\n  partitions: 15\n  rejoin: 0s\n  handoff_timeout: 99ms\n  forget_after: 999ms\n  gossip: {profile: fast}\n"), []string{
			`lk.yaml:7:3: error: cluster.min_members: 0 is too small: at least 1`,
			`lk.yaml:8:3: error: cluster.partitions: 15 is too small: at least 16`,
			`lk.yaml:9:3: error: cluster.rejoin: 0s is too small: at least 1s`,
			`lk.yaml:10:3: error: cluster.handoff_timeout: 99ms is too small: at least 100ms`,
			`lk.yaml:11:3: error: cluster.forget_after: 999ms is too small: at least 1s`,
			`lk.yaml:12:12: error: cluster.gossip.profile: "fast" is not one of lan, wan, local`,
		}},
		{"too many partitions", on(secret + "  partitions: 65537\n"), []string{
			`lk.yaml:7:3: error: cluster.partitions: 65537 is too large: at most 65536`,
		}},
		{"as many as can be, and no settling", on(secret + "  partitions: 65536\n  settle: 0\n  join_timeout: 0\n"), nil},
	})
}

// Mutants killed: half is more than half; names of several members are counted
// as one.
func TestConfigMinMembers(t *testing.T) {
	cluster := func(join, more string) string {
		return someApp + "cluster: {enabled: true, secret_file: /run/lk.key, join: [" + join + "]" + more + "}\n"
	}
	const three = `"lk-0:1", "lk-1:1", "lk-2:1"`
	guardsNothing := func(place, n, members, better string) []string {
		return []string{"lk.yaml:" + place + ": warning: cluster.min_members: " + n + " is not more than half of the " + members + " members in join, so it guards nothing: " +
			"when the network splits, both sides run requests of the same keys. Write " + better}
	}
	runProblemTests(t, []problemTest{
		{"2 of 3", cluster(three, ", min_members: 2"), nil},
		{"1 of 3", cluster(three, ", min_members: 1"), guardsNothing("3:90", "1", "3", "2")},
		{"1 of 3, by default", cluster(three, ""), guardsNothing("3:1", "1", "3", "2")},
		{"2 of 4", cluster(three+`, "lk-3:1"`, ", min_members: 2"), guardsNothing("3:100", "2", "4", "3")},
		{"3 of 4", cluster(three+`, "lk-3:1"`, ", min_members: 3"), nil},
		{"1 of 1", cluster(`"lk-0:1"`, ""), nil},
		{"1 of many", cluster(`"dns+lk:1", "lk-0:1"`, ""), nil},
		{"1 of many by SRV", cluster(`dnssrv+a.b, "lk-0:1"`, ""), nil},
	})
}

// Mutants killed: port 0 passes; whatever stands before + is a prefix.
func TestConfigSeeds(t *testing.T) {
	const how = ": write host:port, dns+host:port for every address of a name, or dnssrv+name for an SRV record"
	for text, want := range map[string]string{
		"lk-0:7943":                    "",
		"10.0.0.1:1":                   "",
		"[fd00::1]:7943":               "",
		"dns+lk.prod.svc:7943":         "",
		"dnssrv+_gossip._udp.lk.local": "",
		"lk":                           `"lk" is not a member` + how,
		":7943":                        `":7943" is not a member` + how,
		"0.0.0.0:7943":                 `"0.0.0.0:7943" is not a member` + how,
		"dns+:7943":                    `"dns+:7943" is not a member` + how,
		"dns+lk":                       `"dns+lk" is not a member` + how,
		"dnssrv+":                      `"dnssrv+" is not a member` + how,
		"dnssrvnoa+lk":                 `"dnssrvnoa+lk" is not a member` + how,
		"DNS+lk:1":                     `"DNS+lk:1" is not a member` + how,
		"http://lk:7943":               `"http://lk:7943" is not a member` + how,
		"":                             `"" is not a member` + how,
		"lk:0":                         `"0" is not a port: a number from 1 to 65535`,
		"lk:gossip":                    `"gossip" is not a port: a number from 1 to 65535`,
		"dns+lk:65536":                 `"65536" is not a port: a number from 1 to 65535`,
		"dnssrv+lk:7943":               `dnssrv+lk:7943: an SRV record says the port: write dnssrv+name`,
	} {
		if have := errorText(checkSeed(text)); have != want {
			t.Errorf("%s: got %q, want %q", text, have, want)
		}
	}
	runProblemTests(t, []problemTest{{"given twice", "cluster: {join: [\"lk:1\", \"dns+lk:1\", \"lk:1\"]}\n" + someApp, []string{
		`lk.yaml:1:38: error: cluster.join[2]: lk:1 is given twice`,
	}}})
}

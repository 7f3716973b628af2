package main

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"lanekeeper/admin"
)

// Mutants killed: any line of clusterSettings left out or swapped with another;
// gossip takes the cluster's secret though it has its own; peers take it though
// they have certificates.
func TestConfigForTheCluster(t *testing.T) {
	secret, line := aSecret(1)
	gossip, gossipLine := aSecret(100)
	clusterFile, gossipFile := secretFile(t, "cluster.key", line), secretFile(t, "gossip.key", gossipLine+"\n"+line)
	source := strings.NewReplacer("/run/cluster.key", clusterFile, "/run/gossip.key", gossipFile).Replace(everySetting)
	have, err := mustLoadEvery(t, source).clusterSettings()
	if err != nil {
		t.Fatal(err)
	}
	want := &clusterSettings{
		node: "n", zone: "z", name: "shop", partitions: 1024, minMembers: 33,
		join:           []string{"lk-0.lk:7943", "dns+lk:7943", "dnssrv+_gossip._udp.lk"},
		settle:         30 * time.Millisecond,
		rejoin:         31 * time.Second,
		joinTimeout:    32 * time.Second,
		handoffTimeout: 34 * time.Second,
		forgetAfter:    35 * time.Second,
		acquireTimeout: 12 * time.Second, leaseValid: 25 * time.Second, store: "etcd at https://a:1, https://b:2",
		gossip: gossipSettings{listen: ":4", advertise: "10.0.0.1:5", profile: "wan", secrets: [][]byte{gossip, secret}},
		peer:   peerSettings{listen: ":6", advertise: "[fd00::1]:7", tls: TLSConfig{"/run/tls.crt", "/run/tls.key", "/run/ca.crt"}},
	}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("got  %+v\nwant %+v", have, want)
	}

	plain := someApp + "node: {name: n}\ncluster: {enabled: true, join: [\"lk:1\"], secret_file: " + clusterFile + "}\n"
	have, err = mustLoad(t, plain).clusterSettings()
	if err != nil || !reflect.DeepEqual(have.gossip.secrets, [][]byte{secret}) || !reflect.DeepEqual(have.peer.secrets, [][]byte{secret}) {
		t.Errorf("one secret for both: got %+v, %v", have, err)
	}
	open := someApp + "node: {name: n}\ncluster: {enabled: true, join: [\"lk:1\"], gossip: {listen: \"127.0.0.1:1\"}, peer: {listen: \"127.0.0.1:2\"}}\n"
	have, err = mustLoad(t, open).clusterSettings()
	if err != nil || have.gossip.secrets != nil || have.peer.secrets != nil {
		t.Errorf("no secrets: got %+v, %v", have, err)
	}
}

func TestConfigForTheClusterNamesTheSetting(t *testing.T) {
	_, line := aSecret(1)
	good, bad := secretFile(t, "good.key", line), secretFile(t, "bad.key", line[1:])
	cluster := someApp + "node: {name: n}\ncluster: {enabled: true, join: [\"lk:1\"], secret_file: CLUSTER, gossip: {secret_file: GOSSIP}}\n"
	for _, test := range []struct{ cluster, gossip, want string }{
		{bad, good, "cluster.secret_file: " + bad + ": line 1 is not base64: make one with openssl rand -base64 32"},
		{good, bad, "cluster.gossip.secret_file: " + bad + ": line 1 is not base64: make one with openssl rand -base64 32"},
		{good + "x", good, "cluster.secret_file: stat " + good + "x: no such file or directory"},
	} {
		cfg := mustLoad(t, strings.NewReplacer("CLUSTER", test.cluster, "GOSSIP", test.gossip).Replace(cluster))
		if _, err := cfg.clusterSettings(); errorText(err) != test.want {
			t.Errorf("got %q, want %q", errorText(err), test.want)
		}
	}
}

// A configuration is looked at where its secrets are not.
//
// Mutant killed: Load reads the files.
func TestConfigIsValidWithoutItsSecrets(t *testing.T) {
	mustLoadEvery(t, strings.ReplaceAll(everySetting, "/run/", "/does/not/exist/"))
}

// Mutant killed: writeYAML or leaves show what is in a secret file.
func TestConfigShowsNoSecrets(t *testing.T) {
	_, line := aSecret(1)
	const token = "0123456789abcdef"
	source := strings.NewReplacer("/run/cluster.key", secretFile(t, "cluster.key", line), "/run/token", secretFile(t, "token", token)).Replace(everySetting)
	var out bytes.Buffer
	cfg, report := loadText(t, source)
	for _, format := range []string{"yaml", "json"} {
		for _, origin := range []bool{true, false} {
			if err := showConfig(&out, cfg, report, format, origin); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !strings.Contains(out.String(), "cluster.key") || strings.Contains(out.String(), line) || strings.Contains(out.String(), token) {
		t.Errorf("got\n%s", &out)
	}
}

// Mutants killed: the address of listen is no host of the node; every address is one.
func TestConfigForAdmin(t *testing.T) {
	config, err := mustLoad(t, someApp).adminConfig()
	if want := (admin.Config{AllowedHosts: []string{"localhost", "127.0.0.1", "[::1]"}, UI: true}); err != nil || !reflect.DeepEqual(config, want) {
		t.Errorf("got %+v, %v, want %+v", config, err, want)
	}
	file := secretFile(t, "token", "0123456789abcdef\n")
	config, err = mustLoad(t, "admin: {token_file: "+file+", allowed_hosts: [lk-0]}\n"+someApp).adminConfig()
	if want := (admin.Config{Tokens: []string{"0123456789abcdef"}, AllowedHosts: []string{"lk-0", "127.0.0.1"}, UI: true}); err != nil || !reflect.DeepEqual(config, want) {
		t.Errorf("got %+v, %v, want %+v", config, err, want)
	}
	for listen, want := range map[string]string{"127.0.0.2:7942": "127.0.0.2", "[::1]:7942": "", "[fd00::1]:7942": "fd00::1", ":7942": "", "0.0.0.0:7942": "", "[::]:7942": "", "localhost:7942": ""} {
		hosts := (&AdminConfig{Listen: listen, AllowedHosts: []string{"a", "::1"}}).hosts()
		if all := strings.Join(hosts[2:], " "); all != want {
			t.Errorf("%s: got %q beside the list, want %q", listen, all, want)
		}
	}
	_, err = mustLoad(t, "admin: {token_file: "+file+"x}\n"+someApp).adminConfig()
	if want := "admin.token_file: stat " + file + "x: no such file or directory"; errorText(err) != want {
		t.Errorf("got %q, want %q", errorText(err), want)
	}
}

// Mutant killed: any name that a host has will do; a fresh virtual machine is
// called localhost, and so is the next one.
func TestConfigMemberName(t *testing.T) {
	cfg := Default()
	cfg.Node.Name = "localhost" // if somebody says so
	if have, err := cfg.memberName(); have != "localhost" || err != nil {
		t.Errorf("got %q, %v", have, err)
	}
	for host, want := range map[string]string{
		"lk-0":                  "",
		"lk-0.lk.prod.local":    "",
		"":                      "this host has no name of its own",
		"localhost":             "this host has no name of its own",
		"LOCALHOST.localdomain": "this host has no name of its own",
		"localhosts":            "",
		"lk 0":                  `"lk 0" does not match [A-Za-z0-9._-]{0,64}`,
	} {
		if have := errorText(checkHostName(host)); have != want {
			t.Errorf("%q: got %q, want %q", host, have, want)
		}
	}
}

package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// layers are the packages from the ground up. Imports go down only, never
// sideways; loadtest judges from outside and imports nothing of ours, and any
// test may import it.
var layers = map[string]int{
	"queue": 1, "ring": 1, "lock": 1,
	"lock/locktest": 2, "lock/redis": 2, "lock/redlock": 2, "lock/etcd": 2, "lock/zk": 2,
	"proxy/screen": 1, "proxy/screen/screentest": 2, "proxy/upstream": 1, "proxy/sequence": 1, "proxy/sequence/sequencetest": 2,
	"membership": 2, "membership/membertest": 2, "ownership": 2, "peer": 2,
	"proxy/idempotency": 1, "proxy/idempotency/idempotencytest": 2, "proxy/idempotency/redis": 2, "proxy/idempotency/postgres": 2,
	"admin/ui": 1, // files for a browser
	"proxy":    3, "admin": 3,
	"cmd/lanekeeper": 4,
	"configs":        1, // files for embedding, no code
	"configs/fence":  1, // for users to copy
	// Tests alone, of files for users to copy.
	"configs/configstest": 1, "configs/systemd": 1, "configs/docker": 1, "configs/kubernetes": 1, "configs/packages": 1, "configs/clients": 1,
	"loadtest": 0,
}

// homes are the only packages that may import a library, so that each can be
// replaced in one place.
var homes = map[string][]string{
	"github.com/buraksezer/consistent":      {"ring"},
	"github.com/cespare/xxhash":             {"ring"},
	"github.com/hashicorp/memberlist":       {"membership", "membership/membertest"},
	"github.com/hashicorp/go-sockaddr":      {"membership"},
	"github.com/valyala/fasthttp":           {"proxy", "loadtest"},
	"github.com/redis/rueidis":              {"lock/redis", "lock/redlock", "proxy/idempotency/redis"},
	"github.com/go-zookeeper/zk":            {"lock/zk"},
	"go.etcd.io/etcd":                       {"lock/etcd"},
	"google.golang.org/grpc":                {"lock/etcd"},
	"go.uber.org/zap":                       {"lock/etcd"},
	"github.com/fsnotify/fsnotify":          {"cmd/lanekeeper"},
	"github.com/coreos/go-systemd":          {"cmd/lanekeeper"},
	"github.com/spf13/viper":                {"cmd/lanekeeper"},
	"github.com/spf13/cobra":                {"cmd/lanekeeper"},
	"github.com/failsafe-go/failsafe-go":    {"proxy/upstream"},
	"github.com/pires/go-proxyproto":        {"proxy"},
	"github.com/tidwall/gjson":              {"proxy"},
	"github.com/dunglas/httpsfv":            {"proxy"},
	"github.com/HdrHistogram":               {"loadtest"},
	"github.com/tsenart/vegeta":             {"loadtest"},
	"github.com/KimMachineGun/automemlimit": {"cmd/lanekeeper"},
	"charm.land/bubbles":                    {"cmd/lanekeeper"},
	"charm.land/bubbletea":                  {"cmd/lanekeeper"},
	"github.com/charmbracelet/x/term":       {"cmd/lanekeeper"},
	"go.yaml.in/yaml":                       {"cmd/lanekeeper"},
	"github.com/invopop/jsonschema":         {"cmd/lanekeeper"},
	"github.com/jackc/pgx":                  {"proxy/idempotency/postgres"},
	"github.com/DeRuina/timberjack":         {"cmd/lanekeeper"},
	"github.com/prometheus/client_model":    {"cmd/lanekeeper"}, // figures of its own metrics
	"pgregory.net/rapid":                    {},                 // tests only
	"github.com/moby/buildkit":              {},                 // tests only
	"github.com/compose-spec/compose-go":    {},                 // tests only
	"k8s.io":                                {},                 // tests only
	"sigs.k8s.io":                           {},                 // tests only
	"github.com/prometheus/common":          {},                 // tests only
	"github.com/VictoriaMetrics":            {},                 // tests only
	"github.com/go-logr/logr":               {"cmd/lanekeeper"},
	"go.opentelemetry.io/otel":              {"proxy", "cmd/lanekeeper"},
	"go.opentelemetry.io/otel/sdk":          {"cmd/lanekeeper"}, // who sees the interface alone pays for nothing else
	"go.opentelemetry.io/otel/exporters":    {"cmd/lanekeeper"},
	"go.opentelemetry.io/proto":             {}, // tests only
}

// TestImportsGoDown holds the source against layers and homes.
//
// Mutants: queue imports proxy's package; admin imports proxy; peer imports
// membership; proxy imports xxhash.
func TestImportsGoDown(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "lanekeeper/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		name := strings.TrimPrefix(pkg.ImportPath, "lanekeeper/")
		layer, known := layers[name]
		if !known {
			t.Errorf("package %s has no layer: add it, or put its code where it belongs", name)
		}
		for _, imported := range pkg.Imports {
			checkImport(t, name, layer, imported)
		}
	}
	if seen != len(layers) {
		t.Errorf("%d packages found, %d known", seen, len(layers))
	}
}

func checkImport(t *testing.T, name string, layer int, imported string) {
	t.Helper()
	if ours, ok := strings.CutPrefix(imported, "lanekeeper/"); ok {
		if name == "loadtest" {
			t.Errorf("loadtest imports %s; it may import nothing of ours", ours)
		}
		if below := layers[ours]; below >= layer {
			t.Errorf("%s (layer %d) imports %s (layer %d)", name, layer, ours, below)
		}
	}
	for library, allowed := range homes {
		if imported != library && !strings.HasPrefix(imported, library+"/") {
			continue
		}
		if !slices.Contains(allowed, name) {
			t.Errorf("%s imports %s, whose home is %v", name, imported, allowed)
		}
	}
}

// TestTheBinaryIsFreeOfTestLibraries: what tests read manifests with is large, and nothing
// of it gets into the program, not even by way of another library.
//
// Mutant: configs imports sigs.k8s.io/yaml.
func TestTheBinaryIsFreeOfTestLibraries(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "lanekeeper/cmd/lanekeeper").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for imported := range strings.Lines(string(out)) {
		seen = seen || imported == "github.com/valyala/fasthttp\n"
		for _, library := range []string{"github.com/moby/", "github.com/docker/", "github.com/compose-spec/", "k8s.io/", "sigs.k8s.io/"} {
			if strings.HasPrefix(imported, library) {
				t.Errorf("the program has %s", imported)
			}
		}
	}
	if !seen {
		t.Error("there was nothing to be found")
	}
}

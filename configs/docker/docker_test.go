package docker

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"lanekeeper/configs/configstest"
)

func TestMain(m *testing.M) { configstest.Main(m) }

// No image is built or pulled here: what builds them would have to be fetched. The files
// are read as docker reads them, and what they say is held against the program.

const root = "../.."

// dockerfile is Dockerfile's stages, as BuildKit reads them.
func dockerfile(t *testing.T) []instructions.Stage {
	t.Helper()
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	result, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range result.Warnings {
		t.Errorf("Dockerfile: %s", warning.Short)
	}
	stages, _, err := instructions.Parse(result.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	return stages
}

// of is the one command of a kind in a stage.
func of[C instructions.Command](t *testing.T, stage instructions.Stage) (command C) {
	t.Helper()
	found := 0
	for _, c := range stage.Commands {
		if c, ok := c.(C); ok {
			command, found = c, found+1
		}
	}
	if found != 1 {
		t.Fatalf("stage %q: %d of %T", stage.BaseName, found, command)
	}
	return command
}

// The image runs the program, as nobody, and asks it how it is.
//
// Mutants: USER is nonroot by name, or missing; the health check is a shell's line, or asks
// for a verb that is not there; the program is copied to another place than it is started
// from; 7943/udp is not exposed; Go is older than go.mod wants; no CGO_ENABLED=0.
func TestTheImage(t *testing.T) {
	stages := dockerfile(t)
	if len(stages) != 2 {
		t.Fatalf("%d stages", len(stages))
	}
	build, image := stages[0], stages[1]

	version, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.GoVersion}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	if image, ok := strings.CutPrefix(build.BaseName, "golang:"); !ok || !strings.HasPrefix(string(version), image+".") {
		t.Errorf("it is built by %s, and go.mod wants %s", build.BaseName, version)
	}
	compiled := false
	for _, c := range build.Commands {
		switch c := c.(type) {
		case *instructions.RunCommand:
			line := strings.Join(c.CmdLine, " ")
			// Without, the binary needs a C library, which the image does not have.
			compiled = compiled || strings.Contains(line, "go build") && strings.Contains(line, "CGO_ENABLED=0")
		case *instructions.CopyCommand:
			for _, source := range c.SourcePaths {
				if _, err := os.Stat(filepath.Join(root, source)); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if !compiled {
		t.Error("no static binary is built")
	}

	if image.BaseName != "gcr.io/distroless/static:nonroot" {
		t.Errorf("it is based on %s", image.BaseName)
	}
	if user := of[*instructions.UserCommand](t, image).User; user != "65532:65532" {
		t.Errorf("it runs as %s", user)
	}
	copied := of[*instructions.CopyCommand](t, image)
	entry, command := of[*instructions.EntrypointCommand](t, image), of[*instructions.CmdCommand](t, image)
	check := of[*instructions.HealthCheckCommand](t, image).Health
	if entry.PrependShell || command.PrependShell || check.Test[0] != "CMD" {
		t.Error("it has no shell to run commands with")
	}
	if copied.From != build.Name || copied.DestPath != entry.CmdLine[0] || copied.DestPath != check.Test[1] {
		t.Errorf("the program is at %s, started as %s, and asked as %s", copied.DestPath, entry.CmdLine[0], check.Test[1])
	}
	understands(t, command.CmdLine)
	understands(t, check.Test[2:])
	if check.Timeout < 2*time.Second || check.Interval <= 0 {
		t.Errorf("the health check has no time: %+v", check)
	}
	have := of[*instructions.ExposeCommand](t, image).Ports
	config := configstest.Config(t, "lanekeeper.yaml", "HOSTNAME=lk-0")
	for _, port := range []string{
		portOf(config, "server"), portOf(config, "observe"), portOf(config, "cluster", "gossip"),
		portOf(config, "cluster", "gossip") + "/udp", portOf(config, "cluster", "peer"),
	} {
		if !slices.Contains(have, port) {
			t.Errorf("%s is not exposed", port)
		}
	}
}

// understands fails unless the program takes these arguments, though not what they are for.
func understands(t *testing.T, args []string) {
	t.Helper()
	args = append(slices.Clone(args), "--help")
	out, err := exec.CommandContext(t.Context(), configstest.Lanekeeper(t), args...).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("lanekeeper "+args[0])) {
		t.Errorf("lanekeeper %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func portOf(config map[string]any, at ...string) string {
	for _, name := range at {
		config, _ = config[name].(map[string]any)
	}
	listen, _ := config["listen"].(string)
	return listen[strings.LastIndexByte(listen, ':')+1:]
}

func composeProject(t *testing.T) *types.Project {
	t.Helper()
	text, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  here,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(here, "compose.yaml"), Content: text}},
		Environment: map[string]string{},
	}, func(o *loader.Options) { o.SetProjectName("lanekeeper", true) })
	if err != nil {
		t.Fatal(err)
	}
	return project
}

var nodes = []string{"lk-0", "lk-1", "lk-2"}

// The nodes of compose.yaml are one cluster, of a file that is valid at each of them.
//
// Mutants: a node has another's host name; a node is not among those to join; the grace is
// shorter than the drain; the secret is mounted under another name; the witness listens at
// another port than the upstream's; the root may be written; min_members is 1.
func TestTheComposition(t *testing.T) {
	project := composeProject(t)
	if names := project.ServiceNames(); !slices.Equal(names, []string{"grafana", "lk-0", "lk-1", "lk-2", "prometheus", "witness"}) {
		t.Errorf("the services are %v", names)
	}
	for _, name := range nodes {
		service := project.Services[name]
		if service.Hostname != name {
			t.Errorf("%s is called %s", name, service.Hostname)
		}
		if !service.ReadOnly || !slices.Equal(service.CapDrop, []string{"ALL"}) || !slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s may do more than it needs", name)
		}
		if build := service.Build; build == nil || filepath.Join(build.Context, build.Dockerfile) != absolute(t, "Dockerfile") {
			t.Errorf("%s is not built by Dockerfile: %+v", name, service.Build)
		}
		config := configOf(t, service)
		configstest.Valid(t, config, "HOSTNAME="+service.Hostname)
		shown := configstest.Config(t, config, "HOSTNAME="+service.Hostname)
		checkMember(t, project, service, shown)
	}
	witness := project.Services["witness"]
	understands(t, witness.Command)
	for name, service := range project.Services {
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to the network", name, port.Published)
			}
		}
		for _, volume := range service.Volumes {
			checkBind(t, name, volume)
		}
	}
}

// checkMember holds what a node's file says against what its container has.
func checkMember(t *testing.T, project *types.Project, service types.ServiceConfig, config map[string]any) {
	t.Helper()
	cluster := config["cluster"].(map[string]any)
	if name := config["node"].(map[string]any)["name"]; name != service.Name {
		t.Errorf("%s calls itself %s", service.Name, name)
	}
	for _, name := range nodes {
		if want := name + ":" + portOf(config, "cluster", "gossip"); !slices.Contains(cluster["join"].([]any), any(want)) {
			t.Errorf("%s does not join %s", service.Name, want)
		}
	}
	if members := cluster["min_members"].(float64); 2*int(members) <= len(nodes) {
		t.Errorf("%s is content with %v members", service.Name, members)
	}
	secrets := []string{}
	for _, s := range service.Secrets {
		target := s.Target
		if !path.IsAbs(target) {
			target = path.Join("/run/secrets", target)
		}
		secrets = append(secrets, target)
	}
	if file := cluster["secret_file"].(string); !slices.Contains(secrets, file) {
		t.Errorf("%s looks for its secret at %s, of %v", service.Name, file, secrets)
	}
	shutdown := config["shutdown"].(map[string]any)
	if grace := time.Duration(*service.StopGracePeriod); grace < duration(t, shutdown["delay"])+duration(t, shutdown["drain_timeout"])+5*time.Second {
		t.Errorf("%s is killed after %s, and may need longer to drain", service.Name, grace)
	}
	if port := service.Ports[0]; portOf(config, "server") != "7940" || port.Target != 7940 {
		t.Errorf("%s: port %d leads nowhere", service.Name, port.Target)
	}
	for _, u := range config["upstreams"].([]any) {
		for _, target := range u.(map[string]any)["targets"].([]any) {
			name, port, _ := strings.Cut(strings.TrimPrefix(target.(string), "http://"), ":")
			command := strings.Join(project.Services[name].Command, " ")
			if !strings.Contains(command, "--listen :"+port) {
				t.Errorf("upstream %s: nobody listens there", target)
			}
		}
	}
}

// configOf is the file here that a service reads as its configuration: the one in the
// place that the image's command names.
func configOf(t *testing.T, service types.ServiceConfig) string {
	t.Helper()
	args := of[*instructions.CmdCommand](t, dockerfile(t)[1]).CmdLine
	for _, volume := range service.Volumes {
		if volume.Target == args[len(args)-1] {
			return volume.Source
		}
	}
	t.Fatalf("%s has no %s", service.Name, args[len(args)-1])
	return ""
}

// checkBind fails if a file that is mounted is not there: docker would make a directory of
// that name.
func checkBind(t *testing.T, service string, volume types.ServiceVolumeConfig) {
	t.Helper()
	if volume.Type != types.VolumeTypeBind {
		return
	}
	if _, err := os.Stat(volume.Source); errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", service, err)
	}
	if !volume.ReadOnly {
		t.Errorf("%s may write %s", service, volume.Source)
	}
}

func absolute(t *testing.T, name string) string {
	t.Helper()
	name, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func duration(t *testing.T, of any) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(of.(string))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

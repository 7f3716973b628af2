package kubernetes

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lanekeeper/configs/configstest"
)

func TestMain(m *testing.M) { configstest.Main(m) }

// There is no cluster here. The files are decoded as strictly as an API server does, and
// what they say is held against the program, and against itself.

// manifest is one file's objects.
type manifest struct {
	config   *corev1.ConfigMap
	services map[string]*corev1.Service
	pod      corev1.PodTemplateSpec
	replicas int
	budget   *policyv1.PodDisruptionBudget
	policy   *networkingv1.NetworkPolicy
	set      *appsv1.StatefulSet // nil in a Deployment
}

func read(t *testing.T, file string) *manifest {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest{services: map[string]*corev1.Service{}}
	for documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		m.take(t, object)
	}
	if m.config == nil || m.budget == nil || m.policy == nil || len(m.services) != 2 || m.replicas == 0 {
		t.Fatalf("%s: something is missing", file)
	}
	return m
}

func (m *manifest) take(t *testing.T, object runtime.Object) {
	t.Helper()
	switch o := object.(type) {
	case *corev1.ConfigMap:
		m.config = o
	case *corev1.Service:
		m.services[o.Name] = o
	case *appsv1.Deployment:
		m.pod, m.replicas = o.Spec.Template, int(*o.Spec.Replicas)
		checkSelector(t, "the Deployment", o.Spec.Selector, o.Spec.Template)
	case *appsv1.StatefulSet:
		m.pod, m.replicas, m.set = o.Spec.Template, int(*o.Spec.Replicas), o
		checkSelector(t, "the StatefulSet", o.Spec.Selector, o.Spec.Template)
	case *policyv1.PodDisruptionBudget:
		m.budget = o
	case *networkingv1.NetworkPolicy:
		m.policy = o
	default:
		t.Errorf("nobody looks at %T", object)
	}
}

func checkSelector(t *testing.T, whose string, selector *metav1.LabelSelector, pod corev1.PodTemplateSpec) {
	t.Helper()
	selects, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil || selects.Empty() || !selects.Matches(labels.Set(pod.Labels)) {
		t.Errorf("%s selects other pods than these: %v", whose, err)
	}
}

// lanekeeper is the container that runs it.
func (m *manifest) lanekeeper(t *testing.T) corev1.Container {
	t.Helper()
	for _, c := range slices.Concat(m.pod.Spec.InitContainers, m.pod.Spec.Containers) {
		if c.Name == "lanekeeper" {
			return c
		}
	}
	t.Fatal("no lanekeeper")
	return corev1.Container{}
}

// configFile writes what the container would find at its --config.
func (m *manifest) configFile(t *testing.T) string {
	t.Helper()
	c := m.lanekeeper(t)
	at := slices.Index(c.Args, "--config") + 1
	if at == 0 || !slices.Contains(c.Args, "--watch") {
		t.Fatalf("it is run with %q", c.Args)
	}
	for _, mount := range c.VolumeMounts {
		for _, v := range m.pod.Spec.Volumes {
			if v.Name != mount.Name || v.ConfigMap == nil || v.ConfigMap.Name != m.config.Name || mount.SubPath != "" {
				continue
			}
			for name, text := range m.config.Data {
				if path.Join(mount.MountPath, name) == c.Args[at] {
					file := filepath.Join(t.TempDir(), "lanekeeper.yaml")
					if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
					return file
				}
			}
		}
	}
	t.Fatalf("there is no %s in the container, which would follow the ConfigMap", c.Args[at])
	return ""
}

var files = []string{"sidecar.yaml", "tier.yaml"}

// each runs a test with each file, and the configuration that its nodes read.
func each(t *testing.T, test func(*testing.T, *manifest, map[string]any)) {
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			m := read(t, file)
			test(t, m, configstest.Config(t, m.configFile(t), "HOSTNAME=lanekeeper-0"))
		})
	}
}

func at(config map[string]any, names ...string) any {
	var value any = config
	for _, name := range names {
		value = value.(map[string]any)[name]
	}
	return value
}

// portOf is the port of a setting that ends in it.
func portOf(setting any) int32 {
	var port int32
	text := setting.(string)
	fmt.Sscan(text[strings.LastIndexByte(text, ':')+1:], &port)
	return port
}

// number is the port that a name or a number means at a container, 0 if it means none.
func number(c corev1.Container, port intstr.IntOrString, protocol corev1.Protocol) int32 {
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	for _, p := range c.Ports {
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.Protocol == protocol && (port.Type == intstr.String && p.Name == port.StrVal || port.Type == intstr.Int && p.ContainerPort == port.IntVal) {
			return p.ContainerPort
		}
	}
	return 0
}

// The files are what an API server takes, and the configurations in them what lanekeeper
// takes, without so much as a warning.
//
// Mutants: a field of a container is misspelt; a setting in the ConfigMap is; it is mounted
// elsewhere, or by subPath.
func TestTheFilesAreValid(t *testing.T) {
	for _, file := range files {
		m := read(t, file)
		configstest.Valid(t, m.configFile(t), "HOSTNAME=lanekeeper-0")
		c := m.lanekeeper(t)
		for _, args := range [][]string{c.Args, c.Lifecycle.PreStop.Exec.Command[1:]} {
			out, err := exec.CommandContext(t.Context(), configstest.Lanekeeper(t), append(slices.Clone(args), "--help")...).CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("lanekeeper "+args[0])) {
				t.Errorf("%s: lanekeeper %q: %v\n%s", file, args, err, out)
			}
		}
	}
}

// What listens is what is reached, by Services and by nobody else.
//
// Mutants: targetPort is app; peer's containerPort is 7945; the headless Service has no
// publishNotReadyAddresses, no UDP, or another name than is joined; the Service of clients
// has publishNotReadyAddresses; the policy lets everybody at gossip, or somebody at the app.
func TestPorts(t *testing.T) {
	each(t, func(t *testing.T, m *manifest, config map[string]any) {
		c := m.lanekeeper(t)
		listens := map[string]int32{
			"lanekeeper": portOf(at(config, "server", "listen")), "observe": portOf(at(config, "observe", "listen")),
			"gossip": portOf(at(config, "cluster", "gossip", "listen")), "gossip-udp": portOf(at(config, "cluster", "gossip", "listen")),
			"peer": portOf(at(config, "cluster", "peer", "listen")),
		}
		for _, p := range c.Ports {
			if want := listens[p.Name]; p.ContainerPort != want || (p.Protocol == corev1.ProtocolUDP) != (p.Name == "gossip-udp") {
				t.Errorf("port %s is %d, and the configuration says %d", p.Name, p.ContainerPort, want)
			}
		}
		if len(c.Ports) != len(listens) {
			t.Errorf("%d ports, of %d", len(c.Ports), len(listens))
		}

		joined := at(config, "cluster", "join").([]any)[0].(string)
		headless := strings.TrimSuffix(strings.TrimPrefix(joined, "dns+"), fmt.Sprintf(":%d", listens["gossip"]))
		for name, service := range m.services {
			checkSelector(t, "Service "+name, metav1.SetAsLabelSelector(service.Spec.Selector), m.pod)
			reached := map[int32]bool{}
			for _, p := range service.Spec.Ports {
				port := number(c, p.TargetPort, p.Protocol)
				if port == 0 {
					t.Errorf("Service %s: port %s leads to nothing of lanekeeper's", name, p.Name)
				}
				reached[port] = true
			}
			isHeadless := service.Spec.ClusterIP == corev1.ClusterIPNone
			if isHeadless != (name == headless) || service.Spec.PublishNotReadyAddresses != isHeadless {
				t.Errorf("Service %s: %q is joined", name, joined)
			}
			if isHeadless == reached[listens["lanekeeper"]] || isHeadless != reached[listens["gossip"]] || isHeadless && len(service.Spec.Ports) != 3 {
				t.Errorf("Service %s leads to %v", name, reached)
			}
		}
		if m.services[headless] == nil {
			t.Errorf("nothing is called %s, which is joined", headless)
		}
		if m.set != nil && m.set.Spec.ServiceName != headless {
			t.Errorf("the StatefulSet's Service is %s", m.set.Spec.ServiceName)
		}
		checkPolicy(t, m, c)
	})
}

// checkPolicy: clients may reach traffic, one namespace observe, the nodes each other, and
// nobody anything else.
func checkPolicy(t *testing.T, m *manifest, c corev1.Container) {
	t.Helper()
	checkSelector(t, "the NetworkPolicy", &m.policy.Spec.PodSelector, m.pod)
	if !slices.Equal(m.policy.Spec.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}) {
		t.Errorf("the policy is of %v", m.policy.Spec.PolicyTypes)
	}
	open := map[string]string{}
	for _, rule := range m.policy.Spec.Ingress {
		from := "everybody"
		for _, peer := range rule.From {
			switch {
			case peer.PodSelector != nil:
				from = "nodes"
				checkSelector(t, "the rule of the nodes", peer.PodSelector, m.pod)
			case peer.NamespaceSelector != nil:
				from = "a namespace"
			}
		}
		for _, p := range rule.Ports {
			protocol := corev1.ProtocolTCP
			if p.Protocol != nil {
				protocol = *p.Protocol
			}
			if number(c, *p.Port, protocol) == 0 {
				t.Errorf("%s may reach %s, which is not lanekeeper's", from, p.Port)
			}
			open[p.Port.StrVal] += from
		}
		if len(rule.Ports) == 0 {
			t.Errorf("%s may reach everything", from)
		}
	}
	for port, want := range map[string]string{"lanekeeper": "everybody", "observe": "a namespace", "gossip": "nodes", "gossip-udp": "nodes", "peer": "nodes"} {
		if open[port] != want {
			t.Errorf("%s may be reached by %q, and should by %s", port, open[port], want)
		}
	}
}

// The probes ask a node at paths where it answers: one that runs here, by the ConfigMap's
// file, says yes to those of life. Alone it is not ready, which the probe of that sees.
//
// Mutants: the liveness probe asks /healthz, or /readyz; a probe asks at the traffic's port;
// there is no startup probe; readiness asks /livez.
func TestProbes(t *testing.T) {
	each(t, func(t *testing.T, m *manifest, config map[string]any) {
		c := m.lanekeeper(t)
		cmd := exec.Command(configstest.Lanekeeper(t), "serve", "--config", m.configFile(t))
		secret := filepath.Join(t.TempDir(), "cluster.key")
		if err := os.WriteFile(secret, []byte("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(os.Environ(), "HOSTNAME=lanekeeper-0", "LANEKEEPER_CLUSTER_SECRET_FILE="+secret,
			"LANEKEEPER_SERVER_LISTEN=127.0.0.1:0", "LANEKEEPER_OBSERVE_LISTEN=127.0.0.1:0", "LANEKEEPER_ADMIN_LISTEN=127.0.0.1:0",
			"LANEKEEPER_CLUSTER_GOSSIP_LISTEN=127.0.0.1:0", "LANEKEEPER_CLUSTER_PEER_LISTEN=127.0.0.1:0",
			"LANEKEEPER_SHUTDOWN_DELAY=0s", "LANEKEEPER_LOG_FORMAT=json")
		node := configstest.Serve(t, cmd)
		for name, probe := range map[string]struct {
			*corev1.Probe
			path string
			want int
		}{
			"startup":   {c.StartupProbe, "/livez", http.StatusOK},
			"liveness":  {c.LivenessProbe, "/livez", http.StatusOK},
			"readiness": {c.ReadinessProbe, "/readyz", http.StatusServiceUnavailable}, // of two members it has one
		} {
			if probe.Probe == nil || probe.HTTPGet == nil {
				t.Errorf("no %s probe", name)
				continue
			}
			if port := number(c, probe.HTTPGet.Port, ""); port != portOf(at(config, "observe", "listen")) || probe.HTTPGet.Path != probe.path {
				t.Errorf("the %s probe asks %s at %d", name, probe.HTTPGet.Path, port)
			}
			response, err := http.Get(node.Observe + probe.HTTPGet.Path)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode != probe.want {
				t.Errorf("the %s probe is answered by %d, want %d", name, response.StatusCode, probe.want)
			}
		}
		http.DefaultClient.CloseIdleConnections()
		node.Stop()
	})
}

// A pod is given the time that its end needs: the hooks, which run together, then
// lanekeeper's own end. The app serves for as long as lanekeeper drains.
//
// Mutants: the grace period is 30; the hook has no --wait, or waits for longer than the app
// sleeps; drain_timeout is longer.
func TestThereIsTimeToDrain(t *testing.T) {
	each(t, func(t *testing.T, m *manifest, config map[string]any) {
		c := m.lanekeeper(t)
		hook := c.Lifecycle.PreStop.Exec.Command
		if !slices.Contains(hook, "--wait") || hook[0] != "/lanekeeper" || hook[1] != "drain" {
			t.Fatalf("the hook is %q", hook)
		}
		var drain time.Duration
		for _, arg := range hook {
			if value, ok := strings.CutPrefix(arg, "--timeout="); ok {
				drain = duration(t, value)
			}
		}
		if drain == 0 {
			t.Fatal("the hook may take for ever")
		}
		hooks := drain
		for _, other := range m.pod.Spec.Containers {
			if other.Name == c.Name {
				continue
			}
			sleep := time.Duration(other.Lifecycle.PreStop.Sleep.Seconds) * time.Second
			if sleep < drain {
				t.Errorf("%s ends after %s, and lanekeeper may drain for %s", other.Name, sleep, drain)
			}
			hooks = max(hooks, sleep)
		}
		end := duration(t, at(config, "shutdown", "delay")) + duration(t, at(config, "shutdown", "drain_timeout"))
		if grace := time.Duration(*m.pod.Spec.TerminationGracePeriodSeconds) * time.Second; grace < hooks+end {
			t.Errorf("the pod is killed after %s; its hooks take up to %s, and lanekeeper's end %s", grace, hooks, end)
		}
	})
}

// One pod may be gone at a time, and those left are more than half.
//
// Mutants: maxUnavailable is 2; min_members is 1, or 3; the StatefulSet starts one pod after
// the other, which would wait for ever.
func TestOneIsGoneAtATime(t *testing.T) {
	each(t, func(t *testing.T, m *manifest, config map[string]any) {
		checkSelector(t, "the PodDisruptionBudget", m.budget.Spec.Selector, m.pod)
		gone := m.budget.Spec.MaxUnavailable
		members := int(at(config, "cluster", "min_members").(float64))
		if gone == nil || m.replicas-gone.IntValue() < members || 2*members <= m.replicas || gone.IntValue() != 1 {
			t.Errorf("%v of %d pods may be gone, and %d are needed", gone, m.replicas, members)
		}
		if m.set != nil && members > 1 && m.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement {
			t.Error("the first pod waits for the second, which waits for it")
		}
	})
}

// The containers may do nothing that they need not, and the secret is where lanekeeper looks
// for it.
//
// Mutants: no readOnlyRootFilesystem; no runAsNonRoot; capabilities are kept; the secret is
// mounted elsewhere, or readable to everybody; restartPolicy of the sidecar is not there.
func TestWhatTheContainersMay(t *testing.T) {
	each(t, func(t *testing.T, m *manifest, config map[string]any) {
		pod := m.pod.Spec
		if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("the pod may do %+v", s)
		}
		if token := pod.AutomountServiceAccountToken; token == nil || *token {
			t.Error("it may speak with the API server")
		}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			s := c.SecurityContext
			if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
				s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s may do %+v", c.Name, s)
			}
		}
		if m.set == nil {
			if restart := pod.InitContainers[0].RestartPolicy; restart == nil || *restart != corev1.ContainerRestartPolicyAlways {
				t.Error("the app would wait for lanekeeper's end")
			}
		}
		c := m.lanekeeper(t)
		found := false
		for _, mount := range c.VolumeMounts {
			for _, v := range pod.Volumes {
				if v.Name == mount.Name && v.Secret != nil && mount.MountPath == path.Dir(at(config, "cluster", "secret_file").(string)) {
					found = v.Secret.DefaultMode != nil && *v.Secret.DefaultMode == 0o440 && pod.SecurityContext.FSGroup != nil && mount.ReadOnly
				}
			}
		}
		if !found {
			t.Error("its secret is not where it looks for it, or everybody may read it")
		}
		for _, u := range at(config, "upstreams").([]any) {
			target := u.(map[string]any)["targets"].([]any)[0].(string)
			if port, isLocal := strings.CutPrefix(target, "http://127.0.0.1:"); isLocal && port != fmt.Sprint(pod.Containers[0].Ports[0].ContainerPort) {
				t.Errorf("the app is not at %s", target)
			}
		}
	})
}

func duration(t *testing.T, of any) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(of.(string))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

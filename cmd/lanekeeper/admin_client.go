package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"lanekeeper/admin"
)

// adminOptions are the flags of every command that asks a node.
type adminOptions struct {
	address   string
	tokenFile string
	files     TLSConfig // ours, and the authority of the node's
	output    string
	noHeaders bool
	node      string // that is meant; empty: the whole cluster, for a change the one that is asked
}

const adminHelp = `

Exit code 4: the node's admin API did not answer, or wants another token.`

func (o *adminOptions) bind(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&o.address, "admin", "http://127.0.0.1:7942", "`URL` of the node's admin API (admin.listen)")
	flags.StringVar(&o.tokenFile, "token-file", "", "`file` with the API's token (admin.token_file)")
	flags.StringVar(&o.files.ClientCAFile, "ca-file", "", "`file` with the authorities of the API's certificate (admin.tls); else this machine's")
	flags.StringVar(&o.files.CertFile, "cert-file", "", "`file` with a certificate for the API, if it wants one (admin.tls.client_ca_file)")
	flags.StringVar(&o.files.KeyFile, "key-file", "", "`file` with its private key")
	flags.StringVarP(&o.output, "output", "o", "table", "`format`: table, wide, json or yaml")
	flags.BoolVar(&o.noHeaders, "no-headers", false, "leave out the first line of a table")
}

// bindNode is bind for what another node than the one that is asked may be meant by.
func (o *adminOptions) bindNode(command *cobra.Command, usage string) {
	o.bind(command)
	command.Flags().StringVar(&o.node, "node", "", usage)
	if err := command.RegisterFlagCompletionFunc("node", o.completeMembers); err != nil {
		panic("lanekeeper: " + err.Error())
	}
}

// oneNode and ofNode say what --node means.
const (
	oneNode = "only what this `member` of the cluster says"
	ofNode  = "the `member` of the cluster that is meant, in place of the one that is asked"
)

// adminClient asks the admin API of one node.
type adminClient struct {
	node  string // adminOptions.node
	base  *url.URL
	token string
	http  *http.Client
}

// The answers of a node are bounded: a ring of 65536 partitions takes some 8 MiB.
const (
	adminTimeout   = 10 * time.Second
	adminAnswerMax = 64 << 20
)

func (o *adminOptions) client() (*adminClient, error) {
	switch o.output {
	case "table", "wide", "json", "yaml":
	default:
		return nil, fmt.Errorf("--output %s: want table, wide, json or yaml", o.output)
	}
	address := o.address
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	base, err := url.Parse(address)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" || strings.Trim(base.Path, "/") != "" {
		return nil, fmt.Errorf("--admin %s: want http://host:port or https://host:port", o.address)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	if transport.TLSClientConfig, err = o.clientTLS(); err != nil {
		return nil, &exitError{code: exitAdmin, err: err}
	}
	c := &adminClient{base: base, node: o.node, http: &http.Client{
		Transport: transport,
		Timeout:   adminTimeout,
		// Where a redirect leads is not the node that was meant.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if o.tokenFile != "" {
		tokens, err := readTokens(o.tokenFile)
		if err != nil {
			return nil, &exitError{code: exitAdmin, err: fmt.Errorf("--token-file: %w", err)}
		}
		c.token = tokens[0]
	}
	return c, nil
}

// clientTLS is for a node that speaks TLS.
func (o *adminOptions) clientTLS() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.files.ClientCAFile != "" {
		authorities, err := readPEM(o.files.ClientCAFile, "CERTIFICATE", "certificate")
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(authorities)
	}
	if o.files.CertFile != "" || o.files.KeyFile != "" {
		own, err := tls.LoadX509KeyPair(o.files.CertFile, o.files.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("--cert-file and --key-file: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}

// ask sends one request and decodes the answer into answer. It returns the
// answer as it came, too: what this program does not know of it is not lost.
func (c *adminClient) ask(ctx context.Context, method, path string, query url.Values, answer any) ([]byte, error) {
	request, err := c.request(ctx, method, path, query)
	if err != nil {
		return nil, err
	}
	return c.answer(request, answer)
}

// tell is ask with a body.
func (c *adminClient) tell(ctx context.Context, path string, query url.Values, body, answer any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := c.request(ctx, http.MethodPost, path, query)
	if err != nil {
		return nil, err
	}
	request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	request.Header.Set("Content-Type", "application/json")
	return c.answer(request, answer)
}

func (c *adminClient) answer(request *http.Request, answer any) ([]byte, error) {
	response, err := c.send(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, adminAnswerMax))
	if err != nil {
		return nil, c.unreachable(err)
	}
	if response.StatusCode >= 300 {
		return nil, c.refused(response, body)
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return nil, c.stranger(response.Status)
	}
	return body, nil
}

func (c *adminClient) request(ctx context.Context, method, path string, query url.Values) (*http.Request, error) {
	if c.node != "" && !query.Has("node") {
		query = maps.Clone(query)
		if query == nil {
			query = url.Values{}
		}
		query.Set("node", c.node)
	}
	target := *c.base
	target.Path, target.RawQuery = "/api/v1/"+path, query.Encode()
	request, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	return request, nil
}

func (c *adminClient) send(request *http.Request) (*http.Response, error) {
	response, err := c.http.Do(request)
	if err != nil {
		if cause := (*url.Error)(nil); errors.As(err, &cause) {
			err = cause.Err // without the target, which may hold a key
		}
		return nil, c.unreachable(err)
	}
	return response, nil
}

// errUnreachable: the node did not answer, and may do so later.
var errUnreachable = errors.New("no answer")

func (c *adminClient) unreachable(err error) error {
	if cause := (*tls.CertificateVerificationError)(nil); errors.As(err, &cause) {
		return &exitError{code: exitAdmin, err: fmt.Errorf("the certificate of %s is not believed: %w; give its authority as --ca-file, and call the node by a name that the certificate is for", c.base, cause.Err)}
	}
	return &exitError{code: exitAdmin, err: fmt.Errorf("%w from %s: %w; --admin is the node's admin.listen", errUnreachable, c.base, err)}
}

func (c *adminClient) stranger(status string) error {
	return &exitError{code: exitAdmin, err: fmt.Errorf("%s is no lanekeeper's admin API: it answers %s", c.base, status)}
}

// refusedError is a problem.
type refusedError struct{ admin.Problem }

func (e *refusedError) Error() string { return printable(e.Detail) }

// refused turns a problem into an error with the exit code that it means.
func (c *adminClient) refused(response *http.Response, body []byte) error {
	var problem admin.Problem
	if json.Unmarshal(body, &problem) != nil || !strings.HasPrefix(problem.Type, "urn:lanekeeper:problem:") {
		return c.stranger(response.Status)
	}
	err := error(&refusedError{problem})
	switch problem.Status {
	case http.StatusUnauthorized:
		if c.token == "" {
			err = errors.New("the node asks for a token: give --token-file")
		} else {
			err = errors.New("the node does not know the token of --token-file")
		}
		return &exitError{code: exitAdmin, err: err}
	case http.StatusForbidden, http.StatusMisdirectedRequest:
		return &exitError{code: exitAdmin, err: err}
	case http.StatusNotFound, http.StatusConflict:
		if problem.Type == "urn:lanekeeper:problem:no-route" { // only the port for traffic says that
			return &exitError{code: exitAdmin, err: fmt.Errorf("%s is where a lanekeeper takes requests for the service: --admin is the node's admin.listen", c.base)}
		}
		return &exitError{code: exitNegative, err: err}
	}
	return &exitError{code: exitFailure, err: err}
}

// write writes an answer to standard output, in the format that is asked for.
func (o *adminOptions) write(command *cobra.Command, answer []byte, t *table) error {
	out := command.OutOrStdout()
	var text bytes.Buffer
	switch o.output {
	case "json":
		if err := json.Indent(&text, printableJSON(answer), "", "  "); err != nil {
			return failure(err)
		}
		text.WriteByte('\n')
	case "yaml":
		// Escaped, since YAML refuses control characters that JSON lets pass.
		if err := jsonToYAML(&text, printableJSON(answer)); err != nil {
			return failure(err)
		}
	default:
		t.write(&text, !o.noHeaders, colours(out))
	}
	_, err := out.Write(text.Bytes())
	return failure(err)
}

// jsonToYAML keeps the order of what it converts.
func jsonToYAML(w io.Writer, answer []byte) error {
	var document yaml.Node
	if err := yaml.Unmarshal(answer, &document); err != nil {
		return err
	}
	plain(&document)
	out := yaml.NewEncoder(w)
	out.SetIndent(2)
	return out.Encode(&document)
}

// plain takes away JSON's brackets and quotes, where YAML can do without.
func plain(node *yaml.Node) {
	if len(node.Content) > 0 || node.Kind == yaml.ScalarNode {
		node.Style = 0
	}
	for _, child := range node.Content {
		plain(child)
	}
}

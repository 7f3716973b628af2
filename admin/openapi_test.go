package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

var updateOpenAPI = flag.Bool("update", false, "write openapi.json anew")

// comments are what the source says of types, and of their fields as Type.Field.
func comments(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	text := func(groups ...*ast.CommentGroup) string {
		for _, g := range groups {
			if s := strings.Join(strings.Fields(g.Text()), " "); s != "" {
				return s
			}
		}
		return ""
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			general, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range general.Specs {
				spec, ok := s.(*ast.TypeSpec)
				if !ok {
					continue
				}
				found[spec.Name.Name] = text(spec.Doc, general.Doc)
				if of, ok := spec.Type.(*ast.StructType); ok {
					for _, f := range of.Fields.List {
						for _, n := range f.Names {
							found[spec.Name.Name+"."+n.Name] = text(f.Doc, f.Comment)
						}
					}
				}
			}
		}
	}
	return found
}

type object = map[string]any

// describer makes schemas of types.
type describer struct {
	comments map[string]string
	schemas  object
}

func (d *describer) of(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{"type": "object"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		inner := d.of(t.Elem())
		if kind, plain := inner["type"].(string); plain {
			inner["type"] = []any{kind, "null"}
			return inner
		}
		return object{"oneOf": []any{inner, object{"type": "null"}}}
	case reflect.Slice:
		return object{"type": "array", "items": d.of(t.Elem())}
	case reflect.Struct:
		d.named(t)
		return object{"$ref": "#/components/schemas/" + t.Name()}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Int:
		return object{"type": "integer"}
	}
	panic("no schema for " + t.String())
}

func (d *describer) named(t reflect.Type) {
	if _, known := d.schemas[t.Name()]; known {
		return
	}
	schema := object{"type": "object"}
	d.schemas[t.Name()] = schema // before its fields, which may be of it, too
	if text := d.comments[t.Name()]; text != "" {
		schema["description"] = text
	}
	properties, required := object{}, []any{}
	for _, f := range reflect.VisibleFields(t) {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || tag == "-" || tag == "" {
			continue
		}
		property := d.of(f.Type)
		if text := d.comments[d.owner(t, f)+"."+f.Name]; text != "" {
			property["description"] = text
		}
		properties[tag] = property
		if options == "" {
			required = append(required, tag)
		}
	}
	schema["properties"] = properties
	if len(required) > 0 && t != reflect.TypeFor[Relief]() { // whose parts may be left out
		schema["required"] = required
	}
}

// owner is the type that a field is written in, which may be embedded.
func (d *describer) owner(t reflect.Type, f reflect.StructField) string {
	for _, i := range f.Index[:len(f.Index)-1] {
		t = t.Field(i).Type
	}
	return t.Name()
}

// description is the whole document.
func description(t *testing.T) []byte {
	t.Helper()
	d := &describer{comments: comments(t), schemas: object{}}
	a := &api{cluster: &threeNodes{}}
	paths := object{}
	problems := object{"description": "It is not done, or not understood: " + d.comments["Problem"],
		"content": object{"application/problem+json": object{"schema": d.of(reflect.TypeFor[Problem]())}}}
	for _, r := range a.routes() {
		operation := object{"summary": r.title, "operationId": operationID(&r)}
		parameters := []any{}
		for part := range strings.SplitSeq(r.pattern, "/") {
			if name := strings.Trim(part, "{}"); name != part {
				parameters = append(parameters, object{"name": name, "in": "path", "required": true, "schema": object{"type": "string"}})
			}
		}
		for _, p := range r.parameters {
			schema := object{"type": p.kind}
			if p.name == "without" {
				schema = object{"type": "array", "items": schema}
			}
			parameters = append(parameters, object{"name": p.name, "in": "query", "description": p.meaning, "schema": schema,
				"required": p == spaceParameter || p == keyParameter})
		}
		if len(parameters) > 0 {
			operation["parameters"] = parameters
		}
		if r.body != nil {
			operation["requestBody"] = object{"content": object{"application/json": object{"schema": d.of(reflect.TypeOf(r.body))}}}
		}
		content := object{}
		if r.result != nil {
			content["application/json"] = object{"schema": d.of(reflect.TypeOf(r.result))}
		} else {
			content["application/json"] = object{"schema": object{"type": "object"}}
		}
		if r.stream != nil {
			content["text/event-stream"] = object{"schema": object{"type": "string"}}
		}
		status := max(r.status, http.StatusOK)
		operation["responses"] = object{fmt.Sprint(status): object{"description": r.title, "content": content}, "default": problems}
		method := "get"
		if r.change {
			method = "post"
		}
		paths[r.pattern] = object{method: operation}
	}
	d.of(reflect.TypeFor[Board]())
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(object{
		"openapi": "3.1.0",
		"info": object{"title": "lanekeeper admin API", "version": "1",
			"description": "Names, units and meanings stay as they are; new ones may come. What a node does not know is null. Keys are written as Lanekeeper-Key writes them. Of the stream of a board, status is a Numbers, members a Members, ring a Ring, lanes a Board, event an Event and silent a list of Silent."},
		"paths":      paths,
		"security":   []any{object{}, object{"token": []any{}}},
		"components": object{"schemas": d.schemas, "securitySchemes": object{"token": object{"type": "http", "scheme": "bearer", "description": "of admin.token_file"}}},
	}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func operationID(r *route) string {
	id := "get"
	if r.change {
		id = "post"
	}
	for _, word := range strings.FieldsFunc(strings.TrimPrefix(r.pattern, "/api/v1"), func(r rune) bool { return strings.ContainsRune("/{}.-", r) }) {
		id += strings.ToUpper(word[:1]) + word[1:]
	}
	return id
}

// TestOpenAPIIsWhatThereIs compares the description with the routes and types; with -update it writes it.
//
// Mutants seen red: the title of a route is changed without it, or a parameter is left out.
func TestOpenAPIIsWhatThereIs(t *testing.T) {
	want := description(t)
	if *updateOpenAPI {
		if err := os.WriteFile("openapi.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(openAPI, want) {
		t.Error("openapi.json is not what the routes and types say: run go generate ./admin")
	}
}

// TestAnswersFitTheirSchemas asks every route that is described, and holds the answer against what is said
// of it: nothing may be missing, nothing may be there that is not described. And what is not described is
// not there.
//
// Mutants seen red: a field of an answer is not described; a described path is none; a method that is not
// described is taken.
func TestAnswersFitTheirSchemas(t *testing.T) {
	var document object
	if err := json.Unmarshal(openAPI, &document); err != nil {
		t.Fatal(err)
	}
	closeAll(document["components"].(object)["schemas"].(object))
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	if err := compiler.AddResource("openapi.json", any(document)); err != nil {
		t.Fatal(err)
	}
	handler := Handler(local, &threeNodes{others: []string{"lk-1"}, tells: sameAs(t)}, slog.New(slog.DiscardHandler))
	asked := 0
	for path, methods := range document["paths"].(object) {
		for _, method := range []string{"get", "post", "put", "delete"} {
			operation, described := methods.(object)[method].(object)
			target := strings.NewReplacer("{space}", "order", "{key}", "7").Replace(path)
			if parameters, ok := operation["parameters"].([]any); ok {
				target += "?" + queryOf(parameters)
			}
			body := ""
			if strings.Contains(path, "cancel") {
				body = `{"ticket":"0197a3c8-7c1e-7a40-8000-4b1d2f6a9c03"}`
			}
			request := httptest.NewRequest(strings.ToUpper(method), target, strings.NewReader(body))
			request.Host = "localhost"
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, request)
			pointer := "/components/schemas/Problem"
			switch responses, _ := operation["responses"].(object); {
			case !described && answer.Code != http.StatusMethodNotAllowed:
				t.Errorf("%s %s is not described, and answers %d", method, path, answer.Code)
			case described && responses[fmt.Sprint(answer.Code)] == nil:
				t.Errorf("%s %s answers %d, which is not described: %s", method, target, answer.Code, answer.Body)
			case described:
				pointer = "/paths/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(path) + "/" + method +
					"/responses/" + fmt.Sprint(answer.Code) + "/content/application~1json/schema"
				asked++
			}
			schema, err := compiler.Compile("openapi.json#" + pointer)
			if err != nil {
				t.Fatal(err)
			}
			value, err := jsonschema.UnmarshalJSON(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(value); err != nil {
				t.Errorf("%s %s: %v", method, target, err)
			}
		}
	}
	if asked != len(document["paths"].(object)) {
		t.Errorf("%d of %d paths were asked", asked, len(document["paths"].(object)))
	}
}

// closeAll lets schemas have no other fields than those that are described.
func closeAll(schemas object) {
	for _, s := range schemas {
		s.(object)["additionalProperties"] = false
	}
}

// queryOf has every parameter of a query.
func queryOf(parameters []any) string {
	var query []string
	for _, p := range parameters {
		p := p.(object)
		if p["in"] != "query" {
			continue
		}
		name := p["name"].(string)
		values := map[string]string{"space": "order", "key": "7", "limit": "5", "since": "0", "sort": "wait", "level": "debug", "for": "1m", "partitions": "true", "runs": "true", "force": "true", "without": "lk-1"}
		if value, ok := values[name]; ok {
			query = append(query, name+"="+value)
		}
	}
	return strings.Join(query, "&")
}

// sameAs is a member that answers what another one of the same kind does, under another name.
func sameAs(t *testing.T) func(context.Context, string, *Question) (*Told, error) {
	t.Helper()
	other := Handler(local, &threeNodes{}, slog.New(slog.DiscardHandler))
	return func(ctx context.Context, _ string, q *Question) (*Told, error) {
		told := other.Answer(ctx, "lk-0", q)
		told.Body = bytes.ReplaceAll(told.Body, []byte(`"node":"lk-0"`), []byte(`"node":"lk-1"`))
		return told, nil
	}
}

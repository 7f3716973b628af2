package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
)

//go:generate go test -run TestConfigSchemaIsCurrent -update

// writeSchema writes the JSON Schema of the file for editors. It is draft-07,
// since that is what they all know.
func writeSchema(w io.Writer) error {
	reflector := &jsonschema.Reflector{
		Anonymous:                  true,
		DoNotReference:             true, // draft-07 has no $defs
		ExpandedStruct:             true,
		RequiredFromJSONSchemaTags: true,
	}
	schema := reflector.ReflectFromType(reflect.TypeFor[Config]())
	schema.Version = "http://json-schema.org/draft-07/schema#"
	schema.Title = "lanekeeper configuration"
	refine(schema, reflect.ValueOf(Default()))

	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(schema)
}

// refine adds to a section's schema what the reflector does not know: the
// texts that a value may be, the defaults and the meaning. A section without defaults of
// its own has a zero value.
func refine(schema *jsonschema.Schema, defaults reflect.Value) {
	for _, f := range fieldsOf(defaults.Type()) {
		property, ok := schema.Properties.Get(f.name)
		if !ok {
			panic("config: the schema lacks " + f.name)
		}
		value := defaults.FieldByIndex(f.index)
		switch {
		case f.isSection():
			refine(property, value)
		case f.element().Kind() == reflect.Struct:
			refine(property.Items, elementDefaults(f.element()))
		case f.isList():
			property.Items = f.schema()
		default:
			*property = *f.schema()
		}
		property.Description = f.meaning(false)
		if !f.isSection() && hasDefault(defaults, value) {
			property.Default = value.Interface()
		}
	}
}

// elementDefaults is what each element of a list of sections starts from.
func elementDefaults(element reflect.Type) reflect.Value {
	switch element {
	case reflect.TypeFor[UpstreamConfig]():
		return reflect.ValueOf(defaultUpstream())
	case reflect.TypeFor[CoalesceConfig]():
		return reflect.ValueOf(defaultCoalesce())
	}
	return reflect.Zero(element)
}

// hasDefault says whether value is a default and not merely zero: that is so
// for all of a section that has any, but for names and lists one must give.
func hasDefault(section, value reflect.Value) bool {
	return !section.IsZero() && (value.Kind() != reflect.Slice && value.Kind() != reflect.String || !value.IsZero())
}

// schema is what a single value of the field may be in the file. Each may
// also be a text with ${…}, whose value no editor knows.
func (f field) schema() *jsonschema.Schema {
	variable := &jsonschema.Schema{Type: "string", Pattern: `\$\{`}
	value := &jsonschema.Schema{}
	switch t := f.element(); {
	case t == durationType:
		value.AnyOf = []*jsonschema.Schema{{Type: "string", Pattern: durationPattern}, {Const: 0}, variable}
	case t == sizeType:
		value.AnyOf = []*jsonschema.Schema{{Type: "string", Pattern: sizePattern}, {Const: 0}, variable}
	case t.Kind() == reflect.Int && f.tag.Get("enum") != "":
		numbers := make([]any, 0)
		for word := range strings.FieldsSeq(f.tag.Get("enum")) {
			numbers = append(numbers, json.Number(word))
		}
		value.AnyOf = []*jsonschema.Schema{{Type: "integer", Enum: numbers}, variable}
	case t.Kind() == reflect.Int:
		value.AnyOf = []*jsonschema.Schema{{Type: "integer", Minimum: json.Number(f.tag.Get("min")), Maximum: json.Number(f.tag.Get("max"))}, variable}
	case t.Kind() == reflect.Float64:
		value.AnyOf = []*jsonschema.Schema{{Type: "number", Minimum: json.Number(f.tag.Get("min")), Maximum: json.Number(f.tag.Get("max"))}, variable}
	case t.Kind() == reflect.Bool:
		value.AnyOf = []*jsonschema.Schema{{Type: "boolean"}, variable}
	case f.tag.Get("enum") != "":
		words := make([]any, 0)
		for word := range strings.FieldsSeq(f.tag.Get("enum")) {
			words = append(words, word)
		}
		value.AnyOf = []*jsonschema.Schema{{Type: "string", Enum: words}, variable}
	case f.tag.Get("pattern") != "":
		value.AnyOf = []*jsonschema.Schema{{Type: "string", Pattern: "^(?:" + f.tag.Get("pattern") + ")$"}, variable}
	default:
		value.Type = "string"
	}
	return value
}

// writeDocs writes a Markdown table of every setting.
func writeDocs(w io.Writer) {
	fmt.Fprint(w, "| path | type | default | environment | meaning |\n|---|---|---|---|---|\n")
	writeDocsOf(w, "", reflect.ValueOf(Default()), false)
}

func writeDocsOf(w io.Writer, path string, defaults reflect.Value, restart bool) {
	for _, f := range fieldsOf(defaults.Type()) {
		restart := restart || f.needsRestart()
		at := joinPath(path, f.name)
		value := defaults.FieldByIndex(f.index)
		switch {
		case at == "routes[].lane":
			fmt.Fprintf(w, "| `%s` | section | `defaults.lane` | | %s |\n", at, f.meaning(restart))
		case f.isSection():
			writeDocsOf(w, at, value, restart)
		case f.element().Kind() == reflect.Struct:
			writeDocsOf(w, at+"[]", elementDefaults(f.element()), restart)
		default:
			fmt.Fprintf(w, "| `%s` | %s | %s | %s | %s |\n", at, f.typeName(), f.defaultText(at, defaults, value), markdownCode(variable(at)), f.meaning(restart))
		}
	}
}

func (f field) typeName() string {
	name := "text"
	switch t := f.element(); {
	case t == durationType:
		name = "duration"
	case t == sizeType:
		name = "size"
	case t.Kind() == reflect.Int && f.tag.Get("enum") == "":
		name = "whole number"
	case t.Kind() == reflect.Float64:
		name = "number"
	case t.Kind() == reflect.Bool:
		name = "`true`, `false`"
	case f.tag.Get("enum") != "":
		name = "`" + strings.Join(strings.Fields(f.tag.Get("enum")), "`, `") + "`"
	}
	if f.isList() {
		return "list of " + name
	}
	return name
}

func (f field) defaultText(path string, section, value reflect.Value) string {
	if base, ok := strings.CutPrefix(path, "routes[].key."); ok && slices.Contains(fieldNames(fieldsOf(reflect.TypeFor[KeyDefaults]())), base) {
		return markdownCode("defaults.key." + base)
	}
	switch {
	case f.tag.Get("jsonschema") == "required":
		return "required"
	case section.IsZero() || value.Kind() == reflect.String && value.IsZero():
		return ""
	case f.isList():
		return markdownCode("[" + strings.Join(value.Interface().([]string), ", ") + "]")
	}
	return markdownCode(valueText(value))
}

func markdownCode(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

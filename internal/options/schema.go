package options

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// schema is the part of JSON Schema 2020-12 that describes the file, see
// https://json-schema.org/draft/2020-12/json-schema-validation.
type schema struct {
	Schema      string             `json:"$schema,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        any                `json:"type,omitempty"`
	Enum        []string           `json:"enum,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	Minimum     *int               `json:"minimum,omitempty"`
	Maximum     *int               `json:"maximum,omitempty"`
	Default     any                `json:"default,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Additional  *bool              `json:"additionalProperties,omitempty"`
	Items       *schema            `json:"items,omitempty"`
}

// Schema returns the JSON schema of the file, for editors and other programs.
func (s *Set[T]) Schema(title string) ([]byte, error) {
	root := closedObject()
	root.Schema, root.Title = "https://json-schema.org/draft/2020-12/schema", title
	for _, o := range s.list {
		section, key, nested := strings.Cut(o.Key, ".")
		if nested {
			if root.Properties[section] == nil {
				root.Properties[section] = closedObject()
				root.Properties[section].Type = []string{"object", "null"}
			}
			root.Properties[section].Properties[key] = o.schema()
		}
		if o.Atlantis != "" {
			root.Properties[o.Atlantis] = o.schema()
		}
	}
	text, err := json.MarshalIndent(root, "", "  ")
	return append(text, '\n'), err
}

func closedObject() *schema {
	return &schema{Type: "object", Properties: make(map[string]*schema), Additional: new(bool)}
}

func (o *Option) schema() *schema {
	least := 0
	result := &schema{Description: o.Doc, Enum: o.Allowed, Type: "string"}
	if !o.initialIsZero() {
		result.Default, least = o.initial, 1
	}
	switch {
	case o.kind == reflect.TypeFor[time.Duration]():
		result.Pattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`
		if o.initialIsZero() {
			// 0 needs no unit, and is a number where it has no quotes.
			result.Type, result.Minimum, result.Maximum = []string{"string", "integer"}, new(int), new(int)
			result.Pattern = strings.Replace(result.Pattern, "^", "^0$|^", 1)
		} else {
			result.Default = o.Default()
		}
	case o.kind.Kind() == reflect.Bool:
		result.Type, result.Default = "boolean", o.initial
	case o.kind.Kind() == reflect.Int:
		result.Type, result.Minimum = "integer", &least
	case o.kind == reflect.TypeFor[[]string]():
		result.Type, result.Items = []string{"array", "string"}, &schema{Type: "string"}
	case o.kind.Kind() == reflect.Slice:
		result.Type, result.Items = "array", closedObject()
		for _, name := range fieldNames(o.kind.Elem()) {
			result.Items.Properties[name] = &schema{Type: "string"}
		}
	}
	return result
}

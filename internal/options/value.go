package options

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/agext/levenshtein"
	"go.yaml.in/yaml/v3"
)

// parse reads a value as flags and variables have it: one text, or one for each
// element of a list.
func (o *Option) parse(texts []string) (reflect.Value, error) {
	if o.kind.Kind() != reflect.Slice {
		if len(texts) != 1 {
			return reflect.Value{}, errors.New("takes one value, not a list")
		}
		return o.parseOne(texts[0])
	}
	list := reflect.MakeSlice(o.kind, 0, len(texts))
	for _, text := range texts {
		element := reflect.ValueOf(text)
		if o.kind.Elem().Kind() == reflect.Struct {
			var err error
			if element, err = parseParts(o.kind.Elem(), text); err != nil {
				return list, err
			}
		}
		list = reflect.Append(list, element)
	}
	return orNil(list), nil
}

// orNil is a list, nil for an empty one, which is what defaults are.
func orNil(list reflect.Value) reflect.Value {
	if list.Len() == 0 {
		return reflect.Zero(list.Type())
	}
	return list
}

// parseOne reads a value that is no list. Errors have no value that may be secret.
func (o *Option) parseOne(text string) (reflect.Value, error) {
	value := reflect.New(o.kind).Elem()
	shown := o.shown(text)
	switch {
	case o.Allowed != nil:
		for _, allowed := range o.Allowed {
			if text == allowed {
				value.SetString(text)
				return value, nil
			}
		}
		return value, fmt.Errorf("%s is none of %s%s", shown, strings.Join(o.Allowed, ", "), didYouMean(nearest(text, o.Allowed)))
	case o.kind == reflect.TypeFor[time.Duration]():
		d, err := time.ParseDuration(text)
		if _, isNumber := strconv.ParseFloat(text, 64); err != nil && isNumber == nil {
			return value, fmt.Errorf("%s has no unit; give a duration such as %ss or %sm", shown, text, text)
		}
		if err != nil {
			return value, fmt.Errorf("%s is no duration; give one such as 90s, 30m or 2h", shown)
		}
		value.SetInt(int64(d))
		return value, o.inRange(value.Int(), Text(d), "a duration above 0, or leave it out for "+o.Default())
	case o.kind.Kind() == reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return value, fmt.Errorf("%s is no whole number", shown)
		}
		value.SetInt(int64(n))
		return value, o.inRange(value.Int(), text, "a number above 0, or leave it out for "+o.Default())
	case o.kind.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			return value, fmt.Errorf("%s is neither true nor false", shown)
		}
		value.SetBool(text == "true")
	default:
		value.SetString(text)
		if text == "" && !o.initialIsZero() {
			return value, fmt.Errorf("is empty; give a text, or leave it out for %s", o.Default())
		}
	}
	return value, nil
}

func (o *Option) inRange(n int64, text, want string) error {
	switch {
	case n < 0:
		return fmt.Errorf("%s is negative", text)
	case n == 0 && !o.initialIsZero():
		return fmt.Errorf("%s is not possible; give %s", text, want)
	default:
		return nil
	}
}

// shown is a value as errors show it.
func (o *Option) shown(text string) string {
	const most = 60
	if o.Secret {
		return "the value"
	}
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "..."
	}
	return strconv.Quote(text)
}

// parseParts reads NAME=VALUE parts, separated by semicolons, into a struct of texts.
func parseParts(kind reflect.Type, text string) (reflect.Value, error) {
	value := reflect.New(kind).Elem()
	for part := range strings.SplitSeq(text, ";") {
		name, content, found := strings.Cut(strings.TrimSpace(part), "=")
		field := partField(value, name)
		switch {
		case !found || !field.IsValid():
			return value, fmt.Errorf("%q is no part of a rule; give NAME=VALUE, separated by semicolons, with the names %s", part, strings.Join(fieldNames(kind), ", "))
		case content == "" || field.String() != "":
			return value, fmt.Errorf("%s is empty or given twice", name)
		}
		field.SetString(content)
	}
	return value, nil
}

func partField(value reflect.Value, name string) reflect.Value {
	for i := range value.NumField() {
		if value.Type().Field(i).Tag.Get("mapstructure") == name && name != "" {
			return value.Field(i)
		}
	}
	return reflect.Value{}
}

func fieldNames(kind reflect.Type) (names []string) {
	for i := range kind.NumField() {
		names = append(names, kind.Field(i).Tag.Get("mapstructure"))
	}
	return names
}

// lineError is what is wrong in a line of the file.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return e.err.Error() }
func (e *lineError) Unwrap() error { return e.err }

// parseNode reads a value as the file has it. Values count as they are written, so
// 010 is a text of three digits where a text is wanted.
func (o *Option) parseNode(node *yaml.Node) (reflect.Value, error) {
	if o.kind.Kind() != reflect.Slice || node.Kind == yaml.ScalarNode {
		text, err := scalar(node)
		if err != nil {
			return reflect.Value{}, err
		}
		switch {
		case o.kind.Kind() != reflect.Slice:
			return o.parseOne(text)
		case o.kind.Elem().Kind() != reflect.Struct:
			return o.parse(o.split(text))
		}
	}
	elements := []*yaml.Node{node}
	if node.Kind == yaml.SequenceNode {
		elements = node.Content
	}
	list := reflect.MakeSlice(o.kind, 0, len(elements))
	var problems []error
	for _, element := range elements {
		value, err := parseElement(o.kind.Elem(), element)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		list = reflect.Append(list, value)
	}
	return orNil(list), errors.Join(problems...)
}

func parseElement(kind reflect.Type, node *yaml.Node) (reflect.Value, error) {
	value := reflect.New(kind).Elem()
	if kind.Kind() != reflect.Struct {
		text, err := scalar(node)
		if err == nil {
			value.SetString(text)
		}
		return value, err
	}
	if node.Kind != yaml.MappingNode {
		return value, &lineError{node.Line, fmt.Errorf("takes a list of entries with the keys %s", strings.Join(fieldNames(kind), ", "))}
	}
	for i := 0; i < len(node.Content); i += 2 {
		key := node.Content[i]
		field := partField(value, key.Value)
		text, err := scalar(node.Content[i+1])
		switch {
		case !field.IsValid():
			err = fmt.Errorf("%q is none of the keys %s%s", key.Value, strings.Join(fieldNames(kind), ", "), didYouMean(nearest(key.Value, fieldNames(kind))))
		case err != nil:
			err = fmt.Errorf("%s %w", key.Value, err)
		case text == "" || field.String() != "":
			err = fmt.Errorf("%s is empty or given twice", key.Value)
		}
		if err != nil {
			return value, &lineError{key.Line, err}
		}
		field.SetString(text)
	}
	return value, nil
}

// scalar is the text of a value that is no list and no mapping. References to other
// values are not followed.
func scalar(node *yaml.Node) (string, error) {
	switch {
	case node.ShortTag() == "!!null":
		return "", &lineError{node.Line, errors.New("has no value")}
	case node.Kind == yaml.SequenceNode:
		return "", &lineError{node.Line, errors.New("takes one value, not a list")}
	case node.Kind == yaml.AliasNode:
		return "", &lineError{node.Line, errors.New("is an alias; write the value itself")}
	case node.Kind != yaml.ScalarNode:
		return "", &lineError{node.Line, errors.New("takes one value, not keys of its own")}
	default:
		return node.Value, nil
	}
}

// Text returns a value of an option as one would write it on a command line.
func Text(value any) string {
	switch v := value.(type) {
	case time.Duration:
		if v == 0 {
			return "0"
		}
		text := v.String()
		if strings.HasSuffix(text, "m0s") {
			text = strings.TrimSuffix(text, "0s")
		}
		if strings.HasSuffix(text, "h0m") {
			text = strings.TrimSuffix(text, "0m")
		}
		return text
	case []string:
		return strings.Join(v, ",")
	}
	list := reflect.ValueOf(value)
	if list.Kind() != reflect.Slice {
		return fmt.Sprint(value)
	}
	var entries []string
	for i := range list.Len() {
		var parts []string
		for n, name := range fieldNames(list.Type().Elem()) {
			if text := list.Index(i).Field(n).String(); text != "" {
				parts = append(parts, name+"="+text)
			}
		}
		entries = append(entries, strings.Join(parts, ";"))
	}
	return strings.Join(entries, "\n")
}

// nearest returns the name that is most like text, "" if none is.
func nearest(text string, names []string) string {
	const letters = 3 // half of the name may differ, and at most this many
	best, least := "", letters+1
	for _, name := range names {
		distance := levenshtein.Distance(strings.ToLower(text), name, nil)
		if distance < least && distance <= max(1, len(name)/2) {
			best, least = name, distance
		}
	}
	return best
}

func didYouMean(name string) string {
	if name == "" {
		return ""
	}
	return "; did you mean " + name + "?"
}

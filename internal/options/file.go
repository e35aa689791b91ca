package options

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFile is the largest file that is read, in bytes.
const MaxFile = 1 << 20

// file is what a YAML file has for the options.
type file struct {
	name     string
	values   map[string]candidate // by the key in the file
	problems []Problem
}

// readFile reads a YAML file whose sections have the options as keys; the settings
// of Atlantis stand beside the sections, as in Atlantis' own file. It takes the
// document as it is written, since what is decoded into Go's types has lost its
// lines, its duplicates and how a value was written.
func (s *Set[T]) readFile(name string, content []byte) *file {
	f := &file{name: name, values: make(map[string]candidate)}
	root, line, err := parseDocument(content)
	if err != nil {
		f.report(line, "", err)
	}
	if root == nil {
		return f
	}
	sections, plain := make(map[string]map[string]*Option), make(map[string]*Option)
	for _, o := range s.list {
		if section, key, nested := strings.Cut(o.Key, "."); nested {
			if sections[section] == nil {
				sections[section] = make(map[string]*Option)
			}
			sections[section][key] = o
		}
		if o.Atlantis != "" {
			plain[o.Atlantis] = o
		}
	}
	f.each(root, "", func(key, value *yaml.Node) {
		switch options := sections[key.Value]; {
		case plain[key.Value] != nil:
			f.read(plain[key.Value], key.Value, key.Line, value)
		case options == nil:
			f.report(key.Line, key.Value, s.unknown(key.Value, slices.Concat(keys(sections), keys(plain))))
		case value.ShortTag() == "!!null": // all of its keys are comments
		case value.Kind != yaml.MappingNode:
			f.report(value.Line, key.Value, fmt.Errorf("takes keys of its own, not a value: %s", strings.Join(keys(options), ", ")))
		default:
			f.each(value, key.Value+".", func(inner, value *yaml.Node) {
				path := key.Value + "." + inner.Value
				if options[inner.Value] == nil {
					f.report(inner.Line, path, s.unknown(inner.Value, keys(options)))
					return
				}
				f.read(options[inner.Value], path, inner.Line, value)
			})
		}
	})
	return f
}

// unknown is the error for a key that is none of those that are allowed in its
// place. The value may be a password in the wrong place, so it is not repeated.
func (s *Set[T]) unknown(key string, allowed []string) error {
	near := nearest(key, allowed)
	if near == "" {
		if o := s.Lookup(key); o != nil && o.Key != o.Atlantis {
			near = o.Key
		} else {
			near = s.Suggest(key)
		}
	}
	if near != "" {
		return fmt.Errorf("unknown key%s", didYouMean(near))
	}
	return fmt.Errorf("unknown key; there are %s", strings.Join(allowed, ", "))
}

// each calls use for the keys of a mapping that come for the first time.
func (f *file) each(mapping *yaml.Node, prefix string, use func(key, value *yaml.Node)) {
	seen := make(map[string]int)
	for i := 0; i < len(mapping.Content); i += 2 {
		key := mapping.Content[i]
		switch line, twice := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			f.report(key.Line, prefix, errors.New("a key is a text"))
		case twice:
			f.report(key.Line, prefix+key.Value, fmt.Errorf("is in line %d already", line))
		default:
			seen[key.Value] = key.Line
			use(key, mapping.Content[i+1])
		}
	}
}

func (f *file) read(o *Option, key string, line int, node *yaml.Node) {
	value, err := o.parseNode(node)
	if err == nil {
		f.values[key] = candidate{f.at(line), value}
		return
	}
	problems := []error{err}
	if several, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // errors.As does not look for several
		problems = several.Unwrap()
	}
	for _, err := range problems {
		at := line
		if in := (*lineError)(nil); errors.As(err, &in) {
			at = in.line
		}
		f.report(at, key, err)
	}
}

func (f *file) report(line int, key string, err error) {
	f.problems = append(f.problems, Problem{f.at(line), key, err})
}

func (f *file) at(line int) Origin { return Origin{Kind: FromFile, Name: f.name, Line: line} }

// parseDocument returns the mapping that is the file, nil if the file sets nothing,
// or what is wrong in which line.
func parseDocument(content []byte) (*yaml.Node, int, error) {
	if len(content) > MaxFile {
		return nil, 1, fmt.Errorf("it has more than %d bytes", MaxFile)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document, next yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, 0, nil
	} else if err != nil {
		line, err := yamlError(err)
		return nil, line, err
	}
	if err := decoder.Decode(&next); err == nil {
		return nil, next.Line, errors.New("a second document starts here; the file is one")
	} else if !errors.Is(err, io.EOF) {
		line, err := yamlError(err)
		return nil, line, err
	}
	root := document.Content[0]
	switch {
	case root.ShortTag() == "!!null":
		return nil, 0, nil
	case root.Kind != yaml.MappingNode:
		return nil, root.Line, errors.New("want sections with keys, such as \"enhanced-locking:\" and below it \"  backend: redis\"")
	}
	return root, 0, nil
}

// yamlError takes the line out of an error of the YAML library.
func yamlError(err error) (int, error) {
	parts := regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`).FindStringSubmatch(err.Error())
	if parts == nil {
		return 1, err
	}
	line, _ := strconv.Atoi(parts[1])
	return max(line, 1), errors.New("no YAML: " + parts[2])
}

func keys[V any](of map[string]V) []string { return slices.Sorted(maps.Keys(of)) }

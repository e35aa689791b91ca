package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a body. The deepest request has 6 levels.
const maxDepth = 32

// decodeJSON is json.Unmarshal without its leniency: it refuses a name that is
// given twice, where json.Unmarshal takes the last, and text that is no valid
// Unicode, where it puts U+FFFD. Either could make two readers of one request
// see two different locks.
func decodeJSON(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("not valid UTF-8")
	}
	if err := checkNames(data); err != nil {
		return err
	}
	if err := checkEscapes(data); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// checkNames refuses repeated names and deep nesting.
func checkNames(data []byte) error {
	type level struct {
		names    map[string]struct{} // nil for an array
		wantName bool
	}
	levels := []level{{}}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		delimiter, _ := token.(json.Delim)
		if delimiter == '}' || delimiter == ']' {
			levels = levels[:len(levels)-1]
			continue
		}
		if top := &levels[len(levels)-1]; top.names != nil {
			if top.wantName {
				name, _ := token.(string)
				if _, twice := top.names[fold(name)]; twice {
					return fmt.Errorf("field %q is given twice", name)
				}
				top.names[fold(name)] = struct{}{}
				top.wantName = false
				continue
			}
			top.wantName = true
		}
		switch delimiter {
		case '{':
			levels = append(levels, level{names: map[string]struct{}{}, wantName: true})
		case '[':
			levels = append(levels, level{})
		}
		if len(levels) > maxDepth {
			return fmt.Errorf("nested deeper than %d levels", maxDepth)
		}
	}
}

// fold maps names that encoding/json takes for the same field to one text.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next
			}
			r = next
		}
	}, name)
}

// checkEscapes refuses half of a surrogate pair in data, which is valid JSON.
func checkEscapes(data []byte) error {
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		i++ // what is escaped, possibly a backslash
		high, ok := escapedUnit(data, i)
		if !ok || !utf16.IsSurrogate(high) {
			continue
		}
		low, ok := escapedUnit(data, i+6)
		if !ok || data[i+5] != '\\' || utf16.DecodeRune(high, low) == unicode.ReplacementChar {
			return fmt.Errorf("half of a surrogate pair at byte %d", i-1)
		}
		i += 10
	}
	return nil
}

// escapedUnit reads uXXXX at position at.
func escapedUnit(data []byte, at int) (rune, bool) {
	if at+5 > len(data) || data[at] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(data[at+1:at+5]), 16, 16)
	return rune(unit), err == nil
}

package options

import (
	"fmt"
	"strings"
)

// Reference returns a Markdown reference of the options: a table for each section of
// the file, and one for the settings that only Atlantis has.
func (s *Set[T]) Reference() string {
	var text strings.Builder
	var sections []string
	rows := make(map[string][]string)
	for _, o := range s.list {
		section, key, nested := strings.Cut(o.Key, ".")
		if !nested {
			section, key = "", o.Key
		}
		if rows[section] == nil {
			sections = append(sections, section)
		}
		rows[section] = append(rows[section], o.row(key))
	}
	for _, section := range sections {
		title := "`" + section + "`"
		if section == "" {
			title = "Settings that only Atlantis has"
		}
		fmt.Fprintf(&text, "### %s\n\n| key | default | what it is |\n|---|---|---|\n%s\n", title, strings.Join(rows[section], ""))
	}
	return text.String()
}

// row is the row of an option.
func (o *Option) row(key string) string {
	doc := o.Doc
	if o.Allowed != nil {
		doc += " One of `" + strings.Join(o.Allowed, "`, `") + "`."
	}
	if o.Restart {
		doc += " Counts from the next start."
	}
	value := "`" + o.Default() + "`"
	if o.Default() == "" {
		value = "none"
	}
	names := "`--" + strings.Join(o.Flags(), "`, `--") + "`<br>`" + strings.Join(o.Variables(), "`, `") + "`"
	if o.Atlantis != "" && o.Atlantis != o.Key {
		names += "<br>in Atlantis' own place: `" + o.Atlantis + "`"
	}
	return fmt.Sprintf("| `%s` | %s | %s<br>%s |\n", key, value, cell(doc), names)
}

// cell is a text in a table. Asterisks and angle brackets would be markup.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "<", `\<`).Replace(text)
}

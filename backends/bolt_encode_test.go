package backends

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

// Records are written as package json would write them by the tags of their types.
func TestRecordsAreWrittenByTheirTags(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same values each time
	for range 3000 {
		for _, record := range []interface{ encode() ([]byte, error) }{&lockRecord{}, &storedLock{}, &logRecord{}} {
			fillSome(random, reflect.ValueOf(record).Elem())
			written, err := record.encode()
			require.NoError(t, err)
			byTags, err := encode(record)
			require.NoError(t, err)
			require.Equal(t, string(byTags), string(written))
		}
	}
	late := &storedLock{Time: time.Date(12_026, 1, 1, 0, 0, 0, 0, time.UTC)}
	_, err := late.encode()
	require.Error(t, err, "JSON has no such year")
}

// fillSome sets about half of what a value consists of.
func fillSome(random *rand.Rand, v reflect.Value) {
	switch value := v.Addr().Interface().(type) {
	case *time.Time:
		zone := time.FixedZone("", 60*(random.IntN(2000)-1000))
		*value = time.Unix(random.Int64N(4e9), random.Int64N(2)*random.Int64N(1e9)).In(zone)
		return
	case *jsontext.Value:
		if random.IntN(2) == 0 {
			*value = jsontext.Value(`{"a":"b"}`)
		}
		return
	}
	if v.Kind() != reflect.Struct && random.IntN(2) == 0 {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		if random.IntN(4) == 0 {
			return
		}
		for i := range v.NumField() {
			fillSome(random, v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillSome(random, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), random.IntN(3), 3))
		for i := range v.Len() {
			fillSome(random, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range random.IntN(3) {
			key := reflect.New(v.Type().Key()).Elem()
			fillSome(random, key)
			v.SetMapIndex(key, key)
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		texts := []string{"a", "org/app", `"`, `\`, "<&>", "\n\x00\x7f", "é\u2028\U0001f512", "\xff", "\ufffd~ "}
		v.SetString(texts[random.IntN(len(texts))] + texts[random.IntN(len(texts))])
	default:
		v.SetInt(random.Int64() >> random.IntN(64) * (random.Int64N(2)*2 - 1))
	}
}

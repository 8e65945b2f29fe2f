// Package conformance holds no code. Its tests run one list of rows, a row for each
// thing that cachex does, on every topology that Redis is run in, and write down
// what they find in docs/topologies.md; and they hurt servers, to write down in
// docs/reliability.md what becomes of that.
//
// A new kind of cache gets a row in one of the rows_*_test.go.
package conformance

package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Split calls apply for ids, and finds out which of them the database refuses
// permanently. Call it in the function passed to Once, and return its result:
// nil if all ids are applied, a *RefusedError if some were refused.
//
// Split first calls apply with all ids. If apply fails permanently (see
// Options.Permanent), a SAVEPOINT undoes its changes, and Split calls it with
// either half, and so on until each refused id is alone. So one statement for
// all rows works as well as one for each, and a batch without a bad row costs
// two extra statements. Any other error of apply ends Split, and is returned.
//
// A constraint that is deferred to COMMIT fails the whole batch, for ever:
// declare it immediate, or begin with SET CONSTRAINTS ALL IMMEDIATE.
func (l *Ledger) Split(ctx context.Context, tx *sql.Tx, ids []string, apply func(ids []string) error) error {
	s := splitRun{l: l, tx: tx, apply: apply}
	if err := s.try(ctx, ids); err != nil {
		return fmt.Errorf("split: %w", err)
	}
	if len(s.refused) > 0 {
		return &RefusedError{IDs: s.refused, Err: s.cause}
	}
	return nil
}

// splitRun is the state of one call of Split.
type splitRun struct {
	l       *Ledger
	tx      *sql.Tx
	apply   func(ids []string) error
	refused []string
	cause   error // of the first refused id
}

func (s *splitRun) try(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	if err := s.exec(ctx, "SAVEPOINT cachex_split"); err != nil {
		return err
	}
	err := s.apply(ids)
	if err == nil {
		return s.exec(ctx, "RELEASE SAVEPOINT cachex_split")
	}
	if ctx.Err() != nil || !s.l.permanent(err) {
		return err
	}
	if undo := s.exec(ctx, "ROLLBACK TO SAVEPOINT cachex_split"); undo != nil {
		return errors.Join(err, undo)
	}
	if undo := s.exec(ctx, "RELEASE SAVEPOINT cachex_split"); undo != nil {
		return errors.Join(err, undo)
	}
	if len(ids) == 1 {
		s.refused = append(s.refused, ids[0])
		if s.cause == nil {
			s.cause = err
		}
		return nil
	}
	if err := s.try(ctx, ids[:len(ids)/2]); err != nil {
		return err
	}
	return s.try(ctx, ids[len(ids)/2:])
}

func (s *splitRun) exec(ctx context.Context, query string) error {
	_, err := s.tx.ExecContext(ctx, query)
	return err
}

// defaultPermanent returns the default of Options.Permanent.
func defaultPermanent(d Dialect) func(error) bool {
	if d == SQLite {
		return func(err error) bool {
			var e interface{ Code() int }
			if !errors.As(err, &e) {
				return false
			}
			switch e.Code() & 0xff { // the low byte; the rest of an extended code gives details
			case 18, 19, 20: // SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH
				return true
			}
			return false
		}
	}
	return func(err error) bool {
		var e interface{ SQLState() string }
		if !errors.As(err, &e) || len(e.SQLState()) != 5 {
			return false
		}
		class := e.SQLState()[:2]
		return class == "22" || class == "23"
	}
}

//! The careful run: each unit of a batch behind a savepoint of its own.

use super::{
    batch::{BEGIN, Batch, Closing, Failure, UNKNOWN_STATEMENT, before_commit, check_standing, plain},
    declared::Which,
    own::OwnCall,
    positions::Positions,
    refusal,
    unit::{After, Answer, Unit},
};
use crate::pg::{Call, Pipeline};
use rootward_proto::Fault;

/// A unit alone met a prepared statement that is not there.
struct Unprepared(Fault);

impl Batch<'_> {
    /// Each unit behind a savepoint; what is refused is taken back, and its refusal recorded in the same commit. The batch as a whole was
    /// refused for this reason.
    pub(super) async fn separately(&mut self, why: Fault) -> Result<Vec<Answer>, Failure> {
        let mut pipeline = Pipeline::default();
        plain(&mut pipeline, BEGIN)?;
        plain(&mut pipeline, "RESET ALL")?;
        self.connection.add(&mut pipeline, &[self.standing()]).await.map_err(before_commit)?;
        if let Some(error) = self.connection.run(pipeline).await.map_err(before_commit)?.error {
            self.roll_back().await?;
            check_standing(&error)?;
            return Err(Failure::NotCommitted(error.message));
        }
        let mut answers: Vec<Answer> = Vec::with_capacity(self.units.len());
        let mut is_open = false;
        for place in 0..self.units.len() {
            // Alone in its batch, it has been refused already and need not be asked again.
            let answer = if self.units.len() == 1 { Err(why.clone()) } else { self.one(place, &mut is_open).await? };
            answers.push(answer);
        }
        match self.close(&answers, false).await? {
            Closing::Done(_) => Ok(answers),
            Closing::Conflict => {
                self.roll_back().await?;
                Err(Failure::NotCommitted("an outcome was written by somebody else".to_owned()))
            }
            Closing::Not(error, _) => {
                self.roll_back().await?;
                check_standing(&error)?;
                Err(Failure::NotCommitted(error.message))
            }
        }
    }

    /// Runs one unit behind a savepoint, which is left open if the unit took effect: the next one's trip releases it.
    async fn one(&mut self, place: usize, is_open: &mut bool) -> Result<Answer, Failure> {
        let unit = self.units[place];
        let mut calls: Vec<Call> = self.context.calls_of(unit, Which::All);
        let effects = calls.len();
        if let Some(After::Row(row)) = &unit.after {
            calls.push(self.context.own(&OwnCall::of(place, row)));
        }
        // Somebody's SQL before it may have deallocated our statements. If they are gone once more, it does so itself.
        for is_last in [false, true] {
            let mut pipeline = Pipeline::default();
            let mut plain_ones = 1;
            if std::mem::take(is_open) {
                plain(&mut pipeline, "RELEASE SAVEPOINT unit")?;
                plain_ones += 1;
            }
            plain(&mut pipeline, "SAVEPOINT unit")?;
            if !self.connection.knows(&calls) {
                // What can't be prepared must not take back the unit before.
                if let Some(error) = self.connection.run(std::mem::take(&mut pipeline)).await.map_err(before_commit)?.error {
                    return Err(Failure::NotCommitted(error.message));
                }
                plain_ones = 0;
            }
            let answer = self.behind_savepoint(unit, &calls, effects, (pipeline, plain_ones)).await?;
            if matches!(answer, Ok(Ok(_))) {
                *is_open = true;
            } else {
                let mut pipeline = Pipeline::default();
                plain(&mut pipeline, "ROLLBACK TO SAVEPOINT unit")?;
                plain(&mut pipeline, "RELEASE SAVEPOINT unit")?;
                if let Some(error) = self.connection.run(pipeline).await.map_err(before_commit)?.error {
                    return Err(Failure::NotCommitted(error.message));
                }
            }
            match answer {
                Ok(answer) => return Ok(answer),
                Err(Unprepared(fault)) if is_last => return Ok(Err(fault)),
                Err(Unprepared(_)) => self.connection.forget_prepared(),
            }
        }
        Err(Failure::NotCommitted("a unit was left without an answer".to_owned()))
    }

    /// Runs the unit's calls behind what the pipeline holds already; the last of them may be our own row.
    async fn behind_savepoint(
        &mut self,
        unit: &Unit,
        calls: &[Call],
        effects: usize,
        (mut pipeline, plain_ones): (Pipeline, usize),
    ) -> Result<Result<Answer, Unprepared>, Failure> {
        if let Some(error) = self.connection.add(&mut pipeline, calls).await.map_err(before_commit)? {
            return Ok(Ok(Err(refusal::judge(unit, None, &error))));
        }
        let ran = self.connection.run(pipeline).await.map_err(before_commit)?;
        let Some(results) = ran.results.get(plain_ones..) else {
            let why = ran.error.map_or_else(|| "a savepoint gave no result".to_owned(), |error| error.message);
            return Err(Failure::NotCommitted(why));
        };
        let positions = Positions::new(calls);
        let Some(error) = &ran.error else {
            let own = positions.first_of(effects);
            let mut answer = self.context.answer_of(unit, Which::All, &results[..own]);
            if let (Ok(done), Some(result)) = (&mut answer, results.get(own)) {
                done.after = result.rows.first().and_then(|row| row.get(1)?.clone());
            }
            return Ok(Ok(answer));
        };
        let call = positions.call_at(results.len());
        let statement = self.context.statement_at(unit, Which::All, call);
        let is_unprepared = error.sqlstate == UNKNOWN_STATEMENT;
        if statement.is_none() && !is_unprepared {
            check_standing(error)?;
        }
        let judged = || refusal::judge(unit, statement, error);
        let fault = self.context.missed_expectation(unit, Which::All, results).unwrap_or_else(judged);
        Ok(if is_unprepared { Err(Unprepared(fault)) } else { Ok(Err(fault)) })
    }
}

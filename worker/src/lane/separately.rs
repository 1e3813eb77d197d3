//! The careful run: each unit of a batch behind a savepoint of its own.

use super::{
    batch::{BEGIN, Batch, Closing, Failure, UNKNOWN_STATEMENT, before_commit, check_standing, plain},
    positions::Positions,
    refusal,
    unit::{After, Answer, Unit},
};
use crate::pg::{Call, Pipeline};
use rootward_proto::Fault;

/// A unit alone met a prepared statement that is not there.
struct Unprepared(Fault);

impl Batch<'_> {
    /// Each unit behind a savepoint; what is refused is taken back, and its refusal recorded in the same commit.
    pub(super) async fn separately(&mut self, culprit: (usize, Fault)) -> Result<Vec<Answer>, Failure> {
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
        for place in 0..self.units.len() {
            // Alone in its batch, it has been refused already and need not be asked again.
            let answer = if self.units.len() == 1 { Err(culprit.1.clone()) } else { self.one(place).await? };
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

    async fn one(&mut self, place: usize) -> Result<Answer, Failure> {
        let unit = self.units[place];
        let calls: Vec<Call> = self.context.calls_of(unit);
        let own = match &unit.after {
            Some(After::Row(row)) => Some(self.context.own(&[row])),
            _ => None,
        };
        // Somebody's SQL before it may have deallocated our statements. If they are gone once more, it does so itself.
        for is_last in [false, true] {
            let mut pipeline = Pipeline::default();
            plain(&mut pipeline, "SAVEPOINT unit")?;
            if let Some(error) = self.connection.run(pipeline).await.map_err(before_commit)?.error {
                return Err(Failure::NotCommitted(error.message));
            }
            let answer = self.behind_savepoint(unit, &calls, own.as_ref()).await?;
            let mut pipeline = Pipeline::default();
            if !matches!(answer, Ok(Ok(_))) {
                plain(&mut pipeline, "ROLLBACK TO SAVEPOINT unit")?;
            }
            plain(&mut pipeline, "RELEASE SAVEPOINT unit")?;
            if let Some(error) = self.connection.run(pipeline).await.map_err(before_commit)?.error {
                return Err(Failure::NotCommitted(error.message));
            }
            match answer {
                Ok(answer) => return Ok(answer),
                Err(Unprepared(fault)) if is_last => return Ok(Err(fault)),
                Err(Unprepared(_)) => self.connection.forget_prepared(),
            }
        }
        Err(Failure::NotCommitted("a unit was left without an answer".to_owned()))
    }

    async fn behind_savepoint(&mut self, unit: &Unit, calls: &[Call], own: Option<&Call>) -> Result<Result<Answer, Unprepared>, Failure> {
        let mut pipeline = Pipeline::default();
        let all: Vec<Call> = calls.iter().chain(own).cloned().collect();
        if let Some(error) = self.connection.add(&mut pipeline, &all).await.map_err(before_commit)? {
            return Ok(Ok(Err(refusal::judge(unit, None, &error))));
        }
        let ran = self.connection.run(pipeline).await.map_err(before_commit)?;
        let positions = Positions::new(&all);
        let Some(error) = &ran.error else {
            let own = own.map(|_| positions.first_of(calls.len()));
            let mut answer = self.context.answer_of(unit, &ran.results[..own.unwrap_or(ran.results.len())]);
            if let (Ok(done), Some(own)) = (&mut answer, own) {
                done.after = ran.results.get(own).and_then(|result| result.rows.first()?.get(1)?.clone());
            }
            return Ok(Ok(answer));
        };
        let call = positions.call_at(ran.results.len());
        let statement = self.context.statement_at(unit, call);
        let is_unprepared = error.sqlstate == UNKNOWN_STATEMENT;
        if statement.is_none() && !is_unprepared {
            check_standing(error)?;
        }
        let judged = || refusal::judge(unit, statement, error);
        let fault = self.context.missed_expectation(unit, &ran.results).unwrap_or_else(judged);
        Ok(if is_unprepared { Err(Unprepared(fault)) } else { Ok(Err(fault)) })
    }
}

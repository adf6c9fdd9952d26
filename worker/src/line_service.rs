//! The line service: `USER:MESSAGE` is recorded and answered, `print` is greeted.

use std::time::Duration;

use common::wire::line::{GREETING, Request, parse, write_receipt};

use crate::access_log::AccessLog;
use crate::users::Users;
use crate::{Exchange, Kind, Refusal, Result, Service, Settings};

/// The longest part of an unknown user's name that is repeated to whoever sent it.
const SHOWN_OF_A_NAME: usize = 64;

/// The service of the program `worker`.
#[derive(Debug)]
pub struct LineService {
    users: Users,
    latency: Duration,
    log: Option<AccessLog>,
    completed: u64,
}

impl LineService {
    /// The service as the supervisor's options want it.
    ///
    /// # Errors
    /// A users file that cannot be read or holds what is no name (exit 2).
    pub fn load(settings: &Settings) -> Result<Self> {
        let users = match &settings.users {
            Some(path) => Users::read(path)?,
            None => Users::default(),
        };
        let log = settings.access_log.clone().map(AccessLog::new);
        Ok(Self { users, latency: settings.latency, log, completed: 0 })
    }

    fn take(
        &mut self,
        user: &str,
        message: &str,
        exchange: &mut Exchange<'_>,
    ) -> std::result::Result<(), Refusal> {
        if !self.users.knows(user) {
            return Err(unknown(user));
        }
        if let Some(log) = &mut self.log {
            log.received(exchange.pid(), exchange.log_epoch(), message, user);
        }
        if !self.latency.is_zero() {
            imitate_work(self.latency, exchange)?;
        }
        exchange.record(user, message)?;
        self.completed += 1;
        if let Some(log) = &mut self.log {
            log.completed(exchange.pid(), exchange.log_epoch(), message, self.completed);
        }
        let pid = exchange.pid();
        write_receipt(exchange.reply_buffer(), pid, user, message);
        Ok(())
    }
}

impl Service for LineService {
    fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> std::result::Result<(), Refusal> {
        match parse(request) {
            Request::Message { user, message } => self.take(user, message, exchange),
            Request::Malformed(why) => Err(Refusal::new(Kind::Malformed, why)),
            Request::Print => {
                exchange.reply(GREETING);
                Ok(())
            }
        }
    }
}

/// Sleeps, and gives up where there is not so much time.
fn imitate_work(latency: Duration, exchange: &Exchange<'_>) -> std::result::Result<(), Refusal> {
    let left = exchange.time_left().unwrap_or(latency);
    std::thread::sleep(latency.min(left));
    if left < latency { Err(exchange.overdue()) } else { Ok(()) }
}

#[cold]
fn unknown(user: &str) -> Refusal {
    let cut = user.char_indices().nth(SHOWN_OF_A_NAME).map_or(user.len(), |(place, _)| place);
    Refusal::new(Kind::Unauthorized, format!("there is no user {:?}", &user[..cut]))
}

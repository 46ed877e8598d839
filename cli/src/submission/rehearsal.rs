//! What the coordinator would make of a list: its own code takes the rows in, and nothing is stored.

use std::time::Duration;

use sanafarm_coordinator::domain::settings::{BinMode, DecodeMode, Settings};
use sanafarm_coordinator::domain::spec;
use sanafarm_coordinator::domain::submission::{Batch, Speed, Submission};
use sanafarm_proto::v1;

use super::spool::Spool;
use crate::error::Error;
use crate::prompts::Numbering;

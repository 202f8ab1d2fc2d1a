mod chain;
mod crash;
mod file;
mod put;
mod volatile;

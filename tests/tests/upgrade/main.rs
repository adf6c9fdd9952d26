//! USR2: another program takes over in the supervisor's process, and nobody notices; or it cannot, and nothing happens.

mod scene;

mod taking_over;

mod among_deaths;

mod refused;

mod under_way;

mod daemon;
